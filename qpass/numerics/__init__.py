"""The wing that knows numbers and no programs: types, granularities, formulas, QTensor."""

from qpass.numerics.canonical import Operand as Operand
from qpass.numerics.dialects import DIALECTS as DIALECTS
from qpass.numerics.dialects import QPASS as QPASS
from qpass.numerics.dialects import QWIX as QWIX
from qpass.numerics.dialects import Dialect as Dialect
from qpass.numerics.dialects import as_dialect as as_dialect
from qpass.numerics.export import register_serialization
from qpass.numerics.formulas import count_nonfinite as count_nonfinite
from qpass.numerics.formulas import decode as decode
from qpass.numerics.formulas import encode as encode
from qpass.numerics.granularity import Granularity as Granularity
from qpass.numerics.granularity import PerBlock as PerBlock
from qpass.numerics.granularity import PerChannel as PerChannel
from qpass.numerics.granularity import PerGroup as PerGroup
from qpass.numerics.granularity import PerTensor as PerTensor
from qpass.numerics.granularity import block_sizes as block_sizes
from qpass.numerics.packing import Packed as Packed
from qpass.numerics.qtensor import QTensor as QTensor
from qpass.numerics.qtypes import QTYPES as QTYPES
from qpass.numerics.qtypes import QType as QType
from qpass.numerics.qtypes import find_qtype as find_qtype
from qpass.numerics.qtypes import fp4_e2m1 as fp4_e2m1
from qpass.numerics.qtypes import fp8_e4m3 as fp8_e4m3
from qpass.numerics.qtypes import fp8_e4m3b11fnuz as fp8_e4m3b11fnuz
from qpass.numerics.qtypes import fp8_e4m3fnuz as fp8_e4m3fnuz
from qpass.numerics.qtypes import fp8_e5m2 as fp8_e5m2
from qpass.numerics.qtypes import fp8_e5m2fnuz as fp8_e5m2fnuz
from qpass.numerics.qtypes import int2 as int2
from qpass.numerics.qtypes import int3 as int3
from qpass.numerics.qtypes import int4 as int4
from qpass.numerics.qtypes import int5 as int5
from qpass.numerics.qtypes import int6 as int6
from qpass.numerics.qtypes import int7 as int7
from qpass.numerics.qtypes import int8 as int8
from qpass.numerics.qtypes import mxfp4 as mxfp4
from qpass.numerics.qtypes import mxfp6 as mxfp6
from qpass.numerics.qtypes import mxfp8 as mxfp8
from qpass.numerics.qtypes import nf4 as nf4
from qpass.numerics.qtypes import nvfp4 as nvfp4
from qpass.numerics.qtypes import uint4 as uint4
from qpass.numerics.qtypes import uint8 as uint8
from qpass.numerics.quantize import find_range as find_range
from qpass.numerics.quantize import find_scales as find_scales
from qpass.numerics.quantize import quantize as quantize
from qpass.numerics.quantizer import Quantizer as Quantizer
from qpass.numerics.ranges import AbsMax as AbsMax
from qpass.numerics.ranges import Range as Range
from qpass.numerics.rounding import NEAREST as NEAREST
from qpass.numerics.rounding import Stochastic as Stochastic
from qpass.numerics.schemes import Scheme as Scheme
from qpass.numerics.schemes import as_quantizer as as_quantizer

register_serialization()
