"""What codes of a type can stand for, listed without qpass."""

import ml_dtypes
import numpy as np


def values_of(qtype):
    """All values of a type in order, float64; `qtype` needs kind, dtype, table, qmin and qmax."""
    if qtype.kind == "int":
        return np.arange(float(qtype.qmin), float(qtype.qmax) + 1)
    if qtype.kind == "table":
        return np.unique(np.float64(np.float32(qtype.table)))
    bits = ml_dtypes.finfo(qtype.dtype).bits
    found = np.arange(2**bits, dtype=np.uint8).view(qtype.dtype).astype(np.float64)
    return np.unique(found[np.isfinite(found)])
