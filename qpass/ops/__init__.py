"""Where the wings meet: quantized forms of JAX operations, one a file."""

from qpass.ops.operations import QTensorOperations as QTensorOperations
from qpass.ops.weights import Storage as Storage
