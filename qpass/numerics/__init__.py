"""The wing that knows numbers and no programs: types, granularities, formulas, QTensor."""

from qpass.numerics.dialects import DIALECTS as DIALECTS
from qpass.numerics.dialects import QPASS as QPASS
from qpass.numerics.dialects import QWIX as QWIX
from qpass.numerics.dialects import Dialect as Dialect
from qpass.numerics.dialects import as_dialect as as_dialect
from qpass.numerics.export import register_serialization
from qpass.numerics.qtensor import QTensor as QTensor
from qpass.numerics.qtypes import QTYPES as QTYPES
from qpass.numerics.qtypes import QType as QType
from qpass.numerics.qtypes import find_qtype as find_qtype
from qpass.numerics.qtypes import fp8_e4m3 as fp8_e4m3
from qpass.numerics.qtypes import fp8_e5m2 as fp8_e5m2
from qpass.numerics.qtypes import int4 as int4
from qpass.numerics.qtypes import int8 as int8
from qpass.numerics.quantizer import block_sizes as block_sizes
from qpass.numerics.quantizer import count_nonfinite as count_nonfinite
from qpass.numerics.quantizer import decode as decode
from qpass.numerics.quantizer import encode as encode
from qpass.numerics.quantizer import quantize as quantize
from qpass.numerics.quantizer import scales as scales
from qpass.numerics.schemes import PerChannel as PerChannel
from qpass.numerics.schemes import PerGroup as PerGroup
from qpass.numerics.schemes import PerTensor as PerTensor
from qpass.numerics.schemes import Quantizer as Quantizer
from qpass.numerics.schemes import Scheme as Scheme
from qpass.numerics.schemes import as_quantizer as as_quantizer

register_serialization()
