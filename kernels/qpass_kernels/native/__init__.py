"""Compiled kernels for CPU: C++ beside this file, called through XLA's foreign function interface.

Importing this loads nothing. Where there is no library for this machine, or one of other sources,
the kernels refuse every product with the reason, and XLA's form of it (`qpass_kernels.cpu`) is
taken.
"""

from qpass_kernels.kernel import Kernel
from qpass_kernels.native.floating import NATIVE_FLOAT
from qpass_kernels.native.integer import NATIVE_INT
from qpass_kernels.native.library import why_not as why_not

NATIVE_KERNELS: tuple[Kernel, ...] = (NATIVE_INT, NATIVE_FLOAT)
