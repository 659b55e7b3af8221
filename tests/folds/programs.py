"""Programs with values that can be folded, and with values that cannot."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.programs import normal

D, F, LAYERS, KV, GROUPS, HEAD = 6, 10, 3, 2, 2, 4


def rms(x):
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def layer_norm(x):
    return rms(x - jnp.mean(x, axis=-1, keepdims=True))


def gain(p, x):
    h = rms(x) * p["gain"]
    return h @ p["q"] + jnp.tanh(h @ p["k"])


def one_plus(p, x):
    return (rms(x) * (1 + p["gain"])) @ p["q"]


def gain_and_bias(p, x):
    return jax.nn.softmax((layer_norm(x) * p["gain"] + p["bias"]) @ p["q"])


def gated(p, x):
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def fused_gate(p, x):
    gate, up = jnp.split(x @ p["gate_up"], 2, axis=-1)
    return (jax.nn.gelu(gate) * up) @ p["down"]


def half_of_a_stack(p, x):
    """One product makes both; the result is taken apart again."""
    gate, up = jnp.einsum("td,cdf->ctf", x, jnp.stack([p["gate"], p["up"]]))
    return jnp.stack([jax.nn.gelu(gate) * up, jnp.zeros_like(up)])[0] @ p["down"]


def relu(p, x):
    return jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]


def grouped_attention(p, x):
    q = jnp.einsum("td,dkgh->tkgh", x, p["q"])
    k = jnp.einsum("td,dkh->tkh", x, p["k"])
    v = jnp.einsum("td,dkh->tkh", x, p["v"])
    weights = jax.nn.softmax(jnp.einsum("tkgh,skh->kgts", q, k), axis=-1)
    mixed = jnp.einsum("kgts,skh->tkgh", weights, v)
    return mixed.reshape(x.shape[0], -1) @ p["o"]


def repeated_attention(p, x):
    """The same, with keys and values repeated for the heads that share them."""
    q = (x @ p["q"].reshape(D, -1)).reshape(-1, KV * GROUPS, HEAD)
    k, v = ((x @ p[n].reshape(D, -1)).reshape(-1, KV, HEAD) for n in "kv")
    k, v = (jnp.repeat(a, GROUPS, axis=1) for a in (k, v))
    weights = jax.nn.softmax(jnp.einsum("tnh,snh->nts", q, k), axis=-1)
    return jnp.einsum("nts,snh->tnh", weights, v).reshape(x.shape[0], -1) @ p["o"]


def scanned(p, x):
    def layer(x, w):
        h = rms(x) * w["gain"]
        return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"], None

    return lax.scan(layer, x, p)[0]


def shared_gain(p, x):
    """One gain for the norms of all layers."""

    def layer(x, w):
        return x + jnp.tanh((rms(x) * p["gain"]) @ w), None

    return lax.scan(layer, x, p["stack"])[0]


def branches(p, x):
    h = rms(x) * p["gain"]
    return lax.cond(x[0, 0] > 0, lambda h: h @ p["q"], lambda h: h @ p["k"], h)


def residual(p, x):
    h = layer_norm(x) * p["gain"] + p["bias"]
    return layer_norm(h + jnp.tanh(h @ p["q"]) @ p["out"])


def no_gain(p, x):
    return rms(x) @ p["q"]


def smooth_activation(p, x):
    return jax.nn.gelu(x @ p["up"]) @ p["down"]


def tied(p, ids):
    return (rms(p["table"][ids]) * p["gain"]) @ p["table"].T


def read_twice(p, x):
    return (rms(x) * p["gain"]) @ p["q"] + jnp.sum(p["gain"] ** 2)


def plus_one(p, x):
    h = rms(x) * p["gain"]
    return h @ p["q"] + (h + 1.0) @ p["k"]


def returned(p, x):
    h = rms(x) * p["gain"]
    return h @ p["q"], h


def cached(p, x, cache):
    h = jnp.concatenate([cache, x @ p["up"]])
    return h @ p["down"]


SHAPES = {
    "gain": (D,),
    "bias": (D,),
    "q": (D, F),
    "k": (D, F),
    "out": (F, D),
    "gate": (D, F),
    "up": (D, F),
    "gate_up": (D, 2 * F),
    "down": (F, D),
    "o": (KV * GROUPS * HEAD, D),
    "table": (8, D),
    "stack": (LAYERS, D, D),
}
ATTENTION = {"q": (D, KV, GROUPS, HEAD), "k": (D, KV, HEAD), "v": (D, KV, HEAD)}
STACKED = {n: (LAYERS, *SHAPES[n]) for n in ("gain", "gate", "up", "down")}


def parameters(*names, **shapes):
    """Normal numbers; those called gain around 1."""
    rng = np.random.default_rng(0)
    drawn = {n: normal(rng, shapes.get(n) or SHAPES[n]) for n in (*names, *shapes)}
    return {n: 1 + 0.2 * p if n == "gain" else p for n, p in drawn.items()}


def inputs(rows=5, width=D):
    return normal(np.random.default_rng(1), (rows, width))


def in_float64(fn, params, *args):
    """The function of these numbers, in double precision."""
    with jax.enable_x64(True):
        wide = jax.tree.map(_widened, (params, args))
        return np.asarray(fn(*wide[:1], *wide[1]))


def _widened(a):
    a = np.asarray(a)
    return jnp.asarray(a, np.float64 if np.issubdtype(a.dtype, np.floating) else a.dtype)
