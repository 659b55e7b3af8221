"""Pallas kernels for TPU (Mosaic): one file a kernel, fastest first."""

from qpass_kernels.tpu.codes import TPU_CODES as TPU_CODES
from qpass_kernels.tpu.decoded import TPU_DECODED as TPU_DECODED

TPU_KERNELS = (TPU_CODES, TPU_DECODED)
