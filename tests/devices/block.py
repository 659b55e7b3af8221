"""A decoder block with experts, and how its parameters lie under four kinds of parallelism."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import qpass

WIDTH, HEADS, HEAD, HIDDEN, EXPERTS = 64, 8, 16, 128, 8
SHAPES = {
    "wq": (WIDTH, HEADS, HEAD),
    "wk": (WIDTH, HEADS, HEAD),
    "wv": (WIDTH, HEADS, HEAD),
    "wo": (HEADS, HEAD, WIDTH),
    "gate": (WIDTH, HIDDEN),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
    "expert_up": (EXPERTS, WIDTH, HIDDEN),
    "expert_down": (EXPERTS, HIDDEN, WIDTH),
    "router": (WIDTH, EXPERTS),
}
COLUMNS = {
    **dict.fromkeys(("wq", "wk", "wv", "gate", "up"), P(None, "d")),
    "expert_up": P(None, None, "d"),
}
ROWS = {"wo": P("d"), "down": P("d"), "expert_down": P(None, "d")}
SPLIT = {
    **dict.fromkeys(("wq", "wk", "wv", "gate", "up", "down"), P("d")),
    **dict.fromkeys(("expert_up", "expert_down"), P(None, "d")),
    "wo": P(None, None, "d"),
}
# By the kind of parallelism: the specs of parameters, the others being whole, and that of tokens.
MESHES = {
    "data": ({}, P("d")),
    "fsdp": (SPLIT, P("d")),
    "tensor": (COLUMNS | ROWS, P()),
    "expert": (dict.fromkeys(("expert_up", "expert_down"), P("d")), P()),
}


def decoder_block(params, x, use=lambda weight: weight, see=lambda name, value: value):
    """``x`` of shape [batch, tokens, width].

    ``use`` is applied to each weight before its use, ``see`` to what enters each product and to
    each sum of the residual stream, under a name.
    """
    p = {name: use(weight) for name, weight in params.items()}
    h = see("attention in", _normal(x))
    query, key, value = (jnp.einsum("btd,dhk->bthk", h, p[n]) for n in ("wq", "wk", "wv"))
    scores = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", query, key) / 4, -1)
    attended = see("attended", jnp.einsum("bhts,bshk->bthk", scores, value))
    x = see("after attention", x + jnp.einsum("bthk,hkd->btd", attended, p["wo"]))
    h = see("mlp in", _normal(x))
    hidden = see("mlp hidden", jax.nn.silu(h @ p["gate"]) * (h @ p["up"]))
    x = see("after mlp", x + hidden @ p["down"])
    h = see("experts in", _normal(x))
    chosen = jax.nn.softmax(h @ p["router"], -1)
    hidden = jax.nn.silu(jnp.einsum("btd,edf->betf", h, p["expert_up"]))
    each = jnp.einsum("betf,efd->betd", see("experts hidden", hidden), p["expert_down"])
    return x + jnp.einsum("betd,bte->btd", each, chosen)


def stages(params, x, given=None, use=lambda weight: weight):
    """What the block computes at each stage; where ``given`` names one, the rest starts from it."""
    computed = {}

    def see(name, value):
        computed[name] = value
        return value if given is None else given[name]

    return computed | {"out": decoder_block(params, x, use, see)}


def _normal(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def parameters():
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in SHAPES.items()
    }


def tokens(seed=1):
    return np.random.default_rng(seed).standard_normal((8, 12, WIDTH)).astype(np.float32)


def rules(weight, act):
    return [qpass.Rule(path="router", keep=True), qpass.Rule(weight=weight, act=act)]
