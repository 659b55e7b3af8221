"""What a cache holds and what attention over it gives, in float64 numpy."""

import numpy as np

QMAX = {"int8": 127, "int4": 7}


def steps(x, name: str, group: int | None = None, axes: tuple[int, ...] = (-1,)):
    """For each element, the longest step that absmax quantization may have there."""
    x = np.asarray(x, np.float64)
    cut = x.reshape(*x.shape[:-1], -1, group) if group else x
    step = np.abs(cut).max(axis=axes, keepdims=True) / QMAX[name]
    return np.broadcast_to(step, cut.shape).reshape(x.shape)


def attend(p, x, k, v, pos):
    """`programs.step` after the cache is written: its result ``[B, T, D]``."""
    p = {name: np.asarray(w, np.float64) for name, w in p.items()}
    x, k, v = (np.asarray(a, np.float64) for a in (x, k, v))
    q = np.einsum("btd,dnh->btnh", x, p["q"])
    logits = np.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    seen = np.arange(k.shape[1]) <= pos + np.arange(x.shape[1])[:, None]
    logits = np.where(seen, logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return x + np.einsum("btnh,nhd->btd", np.einsum("bnts,bsnh->btnh", weights, v), p["o"])
