"""Kernels for products of quantized operands: an explicit table, fastest first, reference last."""

from .cpu import CPU as CPU
from .kernel import Kernel as Kernel
from .kernel import Product as Product
from .kernel import Selection as Selection
from .kernel import select as select
from .reference import REFERENCE as REFERENCE

KERNELS: tuple[Kernel, ...] = (CPU, REFERENCE)
