"""The operations that can be quantized, by primitive.

To add one, write a file with an `Op` and name it here.
"""

from types import MappingProxyType

from qpass.ops.conv import CONV
from qpass.ops.dot_op import DOT_GENERAL
from qpass.ops.lookup import LOOKUP
from qpass.ops.ragged_dot import RAGGED_DOT

OPS = MappingProxyType({op.name: op for op in (DOT_GENERAL, RAGGED_DOT, CONV, LOOKUP)})
