"""A small network, its rules, and delayed scaling in float64 with casts of `ml_dtypes`."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import qpass

OPERANDS = {"weight": "fp8_e4m3 delayed,4", "act": "fp8_e4m3 delayed,4"}
FORWARD = qpass.Rule(**OPERANDS)
BACKWARD = qpass.Rule(role=("dlhs", "drhs"), grad="fp8_e5m2 delayed,4", **OPERANDS)
WHOLE = qpass.Rule(grad="fp8_e5m2 delayed,4", **OPERANDS)


def parameters(layers=3, width=16, out=8):
    """``layers`` square matrices and a head."""
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "head": jax.random.normal(keys[1], (width, out)) / width**0.5,
        "layers": jax.random.normal(keys[0], (layers, width, width)) / width**0.5,
    }


def batch(seed=0, rows=12, width=16):
    """Rows that grow from batch to batch."""
    return jax.random.normal(jax.random.key(100 + seed), (rows, width)) * (1 + seed)


def layer(x, w):
    """One step of the scan."""
    return x + jnp.tanh(x @ w), None


def loss(params, x, body=layer):
    """Scanned layers and a head; a scalar."""
    x, _ = jax.lax.scan(body, x, params["layers"])
    return jnp.mean((x @ params["head"]) ** 2)


def steps(step, state, params, batches):
    """Run ``step.apply`` over batches; the last result and the state."""
    out, apply = None, jax.jit(step.apply)
    for x in batches:
        out, state = apply(state, params, x)
    return out, state


class Past:
    """One operand of the oracle: its history in float64."""

    def __init__(self, dtype, length=4):
        self.dtype, self.seen, self.length = dtype, [], length
        self.bound = float(ml_dtypes.finfo(dtype).max)

    def __call__(self, x):
        """``x`` quantized by what was seen before, then seen itself."""
        x = np.asarray(x, np.float64)
        window = self.seen[-self.length :]
        if window and max(window) > 0:
            self.bound = max(window)
        self.seen.append(np.abs(x).max())
        greatest = float(ml_dtypes.finfo(self.dtype).max)
        scale = self.bound / greatest
        codes = np.clip(x / scale, -greatest, greatest).astype(np.float32).astype(self.dtype)
        return codes.astype(np.float64) * scale


class Oracle:
    """`loss` and its gradients with all products of fp8 codes, in float64."""

    def __init__(self, layers=3):
        of = {
            "act": ml_dtypes.float8_e4m3fn,
            "weight": ml_dtypes.float8_e4m3fn,
            "grad": ml_dtypes.float8_e5m2,
        }
        self.head = {name: Past(dtype) for name, dtype in of.items()}
        self.layers = [{name: Past(d) for name, d in of.items()} for _ in range(layers)]

    def step(self, params, x):
        """Gradients after one step."""
        p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        x, kept = np.asarray(x, np.float64), []
        for past, w in zip(self.layers, p["layers"], strict=True):
            xq, wq = past["act"](x), past["weight"](w)
            t = np.tanh(xq @ wq)
            kept.append((xq, wq, t))
            x = x + t
        xq, wq = self.head["act"](x), self.head["weight"](p["head"])
        y = xq @ wq
        g = self.head["grad"](2 * y / y.size)
        grads = {"head": xq.T @ g, "layers": np.zeros_like(p["layers"])}
        dx = g @ wq.T
        for k in reversed(range(len(kept))):
            xq, wq, t = kept[k]
            g = self.layers[k]["grad"](dx * (1 - t**2))
            grads["layers"][k] = xq.T @ g
            dx = dx + g @ wq.T
        return grads
