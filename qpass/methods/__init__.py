"""Ways to quantize weights that are better than rounding each by itself."""

from qpass.methods.gptq import GPTQ as GPTQ
from qpass.methods.sequential import quantized_by as quantized_by
