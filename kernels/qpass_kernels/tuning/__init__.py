"""Settings of kernels by measuring: what may run, how long it takes, and tables of the fastest."""

from qpass_kernels.tuning.choice import Choice as Choice
from qpass_kernels.tuning.choice import bucket as bucket
from qpass_kernels.tuning.search import Trial as Trial
from qpass_kernels.tuning.search import search as search
from qpass_kernels.tuning.shipped import for_device as for_device
from qpass_kernels.tuning.shipped import shipped as shipped
from qpass_kernels.tuning.table import Tuned as Tuned
from qpass_kernels.tuning.table import load as load
from qpass_kernels.tuning.timing import METHOD as METHOD
from qpass_kernels.tuning.timing import Method as Method
