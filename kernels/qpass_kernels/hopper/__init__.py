"""Pallas kernels for NVIDIA Hopper (Mosaic GPU): one file a kernel, fastest first."""

from qpass_kernels.hopper.codes import HOPPER_CODES as HOPPER_CODES
from qpass_kernels.hopper.decoded import HOPPER_DECODED as HOPPER_DECODED
from qpass_kernels.hopper.subchannel import HOPPER_SUBCHANNEL as HOPPER_SUBCHANNEL
from qpass_kernels.hopper.weight_only import HOPPER_WEIGHT_ONLY as HOPPER_WEIGHT_ONLY

HOPPER_KERNELS = (HOPPER_CODES, HOPPER_SUBCHANNEL, HOPPER_WEIGHT_ONLY, HOPPER_DECODED)
