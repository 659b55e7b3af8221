"""Kernels for products of quantized operands: an explicit table, fastest first, reference last."""

from qpass_kernels.cpu import CPU as CPU
from qpass_kernels.hopper import HOPPER_KERNELS as HOPPER_KERNELS
from qpass_kernels.kernel import Kernel as Kernel
from qpass_kernels.kernel import Product as Product
from qpass_kernels.kernel import Selection as Selection
from qpass_kernels.kernel import portable as portable
from qpass_kernels.kernel import select as select
from qpass_kernels.native import NATIVE_KERNELS as NATIVE_KERNELS
from qpass_kernels.ragged import RaggedMatmul as RaggedMatmul
from qpass_kernels.ragged import RaggedProduct as RaggedProduct
from qpass_kernels.ragged_choice import RaggedSelection as RaggedSelection
from qpass_kernels.ragged_choice import select_ragged as select_ragged
from qpass_kernels.reference import REFERENCE as REFERENCE
from qpass_kernels.tokamax import TOKAMAX as TOKAMAX
from qpass_kernels.tpu import TPU_KERNELS as TPU_KERNELS
from qpass_kernels.xla import XLA as XLA

KERNELS: tuple[Kernel, ...] = (
    *HOPPER_KERNELS,
    *TPU_KERNELS,
    *NATIVE_KERNELS,
    CPU,
    XLA,
    REFERENCE,
)
