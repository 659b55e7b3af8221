"""qpass: quantize any JAX function by rewriting its program.

>>> import jax.numpy as jnp, qpass
>>> def mlp(params, x):
...     return jnp.tanh(x @ params["up"]) @ params["down"]
>>> params = {"up": jnp.ones((8, 16)), "down": jnp.ones((16, 4))}
>>> q = qpass.transform(mlp, [qpass.Rule(weight="int8", act="int8")])
>>> q(params, jnp.ones((2, 8))).shape
(2, 4)
"""

from qpass.api import jit as jit
from qpass.api import transform as transform
from qpass.compare import Comparison as Comparison
from qpass.errors import CalibrationError as CalibrationError
from qpass.errors import CallError as CallError
from qpass.errors import CorruptTensorError as CorruptTensorError
from qpass.errors import DerivativeError as DerivativeError
from qpass.errors import PlanError as PlanError
from qpass.errors import QPassError as QPassError
from qpass.errors import QuantizeError as QuantizeError
from qpass.errors import RuleError as RuleError
from qpass.errors import UnknownDialectError as UnknownDialectError
from qpass.errors import UnknownTypeError as UnknownTypeError
from qpass.modules import TransformedModule as TransformedModule
from qpass.numerics import Dialect as Dialect
from qpass.numerics import QTensor as QTensor
from qpass.numerics import QType as QType
from qpass.numerics import Quantizer as Quantizer
from qpass.numerics import Scheme as Scheme
from qpass.numerics import fp8_e4m3 as fp8_e4m3
from qpass.numerics import fp8_e5m2 as fp8_e5m2
from qpass.numerics import int4 as int4
from qpass.numerics import int8 as int8
from qpass.plan import Decision as Decision
from qpass.plan import Plan as Plan
from qpass.quantize import tree_nbytes as tree_nbytes
from qpass.rules import Rule as Rule
from qpass.transformed import Transformed as Transformed

__version__ = "0.1.0"
