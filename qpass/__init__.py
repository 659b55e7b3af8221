"""qpass: quantize any JAX function by rewriting its program.

>>> import jax.numpy as jnp, qpass
>>> def mlp(params, x):
...     return jnp.tanh(x @ params["up"]) @ params["down"]
>>> params = {"up": jnp.ones((8, 16)), "down": jnp.ones((16, 4))}
>>> q = qpass.transform(mlp, [qpass.Rule(weight="int8", act="int8")])
>>> q(params, jnp.ones((2, 8))).shape
(2, 4)
"""

from qpass import folds as folds
from qpass import presets as presets
from qpass.api import jit as jit
from qpass.api import transform as transform
from qpass.calibrate import ranges as ranges
from qpass.checkpoint import load as load
from qpass.checkpoint import save as save
from qpass.compare import Comparison as Comparison
from qpass.configs import load_rules as load_rules
from qpass.configs import rules_from_data as rules_from_data
from qpass.configs import rules_to_data as rules_to_data
from qpass.configs import save_rules as save_rules
from qpass.errors import CalibrationError as CalibrationError
from qpass.errors import CallError as CallError
from qpass.errors import CheckpointError as CheckpointError
from qpass.errors import CorruptTensorError as CorruptTensorError
from qpass.errors import DerivativeError as DerivativeError
from qpass.errors import FoldError as FoldError
from qpass.errors import PlanError as PlanError
from qpass.errors import QPassError as QPassError
from qpass.errors import QuantizeError as QuantizeError
from qpass.errors import RuleError as RuleError
from qpass.errors import StateError as StateError
from qpass.errors import UnknownDialectError as UnknownDialectError
from qpass.errors import UnknownTypeError as UnknownTypeError
from qpass.methods import GPTQ as GPTQ
from qpass.modules import TransformedModule as TransformedModule
from qpass.nonfinite import NonFinite as NonFinite
from qpass.numerics import AbsMax as AbsMax
from qpass.numerics import AbsMean as AbsMean
from qpass.numerics import Delayed as Delayed
from qpass.numerics import Dialect as Dialect
from qpass.numerics import Fixed as Fixed
from qpass.numerics import Hqq as Hqq
from qpass.numerics import Mse as Mse
from qpass.numerics import PerBlock as PerBlock
from qpass.numerics import Percentile as Percentile
from qpass.numerics import PerChannel as PerChannel
from qpass.numerics import PerGroup as PerGroup
from qpass.numerics import PerTensor as PerTensor
from qpass.numerics import PowerOfTwo as PowerOfTwo
from qpass.numerics import QTensor as QTensor
from qpass.numerics import QType as QType
from qpass.numerics import Quantizer as Quantizer
from qpass.numerics import Range as Range
from qpass.numerics import Rms as Rms
from qpass.numerics import Scheme as Scheme
from qpass.numerics import Snr as Snr
from qpass.numerics import WeightedMse as WeightedMse
from qpass.numerics import fp4_e2m1 as fp4_e2m1
from qpass.numerics import fp8_e4m3 as fp8_e4m3
from qpass.numerics import fp8_e4m3b11fnuz as fp8_e4m3b11fnuz
from qpass.numerics import fp8_e4m3fnuz as fp8_e4m3fnuz
from qpass.numerics import fp8_e5m2 as fp8_e5m2
from qpass.numerics import fp8_e5m2fnuz as fp8_e5m2fnuz
from qpass.numerics import int2 as int2
from qpass.numerics import int3 as int3
from qpass.numerics import int4 as int4
from qpass.numerics import int5 as int5
from qpass.numerics import int6 as int6
from qpass.numerics import int7 as int7
from qpass.numerics import int8 as int8
from qpass.numerics import mxfp4 as mxfp4
from qpass.numerics import mxfp6 as mxfp6
from qpass.numerics import mxfp8 as mxfp8
from qpass.numerics import nf4 as nf4
from qpass.numerics import nvfp4 as nvfp4
from qpass.numerics import uint4 as uint4
from qpass.numerics import uint8 as uint8
from qpass.numerics.schemes import Backward as Backward
from qpass.numerics.sparsity import NM as NM
from qpass.ops.lora import LoRA as LoRA
from qpass.plan import Decision as Decision
from qpass.plan import Plan as Plan
from qpass.quantize import tree_nbytes as tree_nbytes
from qpass.records import record as record
from qpass.rules import Rule as Rule
from qpass.searching import Search as Search
from qpass.searching import Sensitivity as Sensitivity
from qpass.searching import search as search
from qpass.searching import sensitivity as sensitivity
from qpass.stats import Stats as Stats
from qpass.stats import load_stats as load_stats
from qpass.stats import save_stats as save_stats
from qpass.stats import unseen_experts as unseen_experts
from qpass.stats import update_stats as update_stats
from qpass.training import merge_states as merge_states
from qpass.training import value_and_grad as value_and_grad
from qpass.transformed import Transformed as Transformed
from qpass.tuning import Tuning as Tuning
from qpass.tuning import tune as tune

__version__ = "0.1.0"
