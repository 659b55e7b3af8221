"""Checkpoints of other libraries: GPTQ, AWQ, compressed-tensors, fp8 blocks, GGUF, bitsandbytes."""

from qpass.checkpoint.formats.leaves import Decoded as Decoded
from qpass.checkpoint.formats.leaves import Imported as Imported
from qpass.checkpoint.formats.read import read as read
