"""Checkpoints of other libraries: GPTQ, AWQ, compressed-tensors, fp8 blocks, GGUF, bitsandbytes."""

from qpass.checkpoint.formats.leaves import Decoded as Decoded
from qpass.checkpoint.formats.leaves import Imported as Imported
from qpass.checkpoint.formats.read import read as read
from qpass.checkpoint.formats.write import write_compressed_tensors as write_compressed_tensors
from qpass.checkpoint.formats.write import write_gptq as write_gptq
