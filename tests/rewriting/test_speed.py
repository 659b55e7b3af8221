"""Transforming costs at most twice what tracing the float function does, and one second."""

import gc
import time

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.rewriting.oracle import INT8

LAYERS, WIDTH, HEADS = 48, 16, 2


@jax.jit
def norm(x, gain):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gain


@jax.jit
def mlp(x, p):
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def layer(x, p):
    h = norm(x, p["gain"])
    q, k, v = (jnp.einsum("td,dnh->tnh", h, p[name]) for name in ("wq", "wk", "wv"))
    scores = jax.nn.softmax(jnp.einsum("tnh,snh->nts", q, k))
    x = x + jnp.einsum("tnh,nhd->td", jnp.einsum("nts,snh->tnh", scores, v), p["wo"])
    return x + mlp(norm(x, p["gain"]), p)


def shapes(*leading):
    head = WIDTH // HEADS
    sizes = {"gain": (WIDTH,), "wo": (HEADS, head, WIDTH), "down": (2 * WIDTH, WIDTH)}
    sizes |= dict.fromkeys(("wq", "wk", "wv"), (WIDTH, HEADS, head))
    sizes |= dict.fromkeys(("gate", "up"), (WIDTH, 2 * WIDTH))
    return {k: jax.ShapeDtypeStruct((*leading, *s), jnp.float32) for k, s in sizes.items()}


def scanned(p, x):
    return lax.scan(lambda c, w: (jax.checkpoint(layer)(c, w), None), x, p)[0]


def unrolled(p, x):
    for w in p:
        x = jax.checkpoint(layer)(x, w)
    return x


def inlined(p, x):
    for w in p:
        x = layer(x, w)
    return x


X = jax.ShapeDtypeStruct((8, WIDTH), jnp.float32)
MODELS = {
    "scanned": (scanned, shapes(LAYERS)),
    "unrolled": (unrolled, [shapes() for _ in range(LAYERS)]),
    "inlined": (inlined, [shapes() for _ in range(LAYERS)]),
}


def seconds(run):
    """The time of this process, as the machine may be shared, less what other tests left behind."""
    jax.clear_caches()
    gc.collect()
    gc.disable()  # each collection would walk through all that lives in the process
    start = time.process_time()
    run()
    spent = time.process_time() - start
    gc.enable()
    return spent


@pytest.mark.parametrize("rules", [INT8, qpass.Rule(path="**", weight=qpass.int4.grouped(8))])
@pytest.mark.parametrize("name", MODELS)
def test_trace_plan_and_rewrite(name, rules):
    fn, params = MODELS[name]
    floats, quantized = [], []
    for _ in range(3):
        floats.append(seconds(lambda: jax.make_jaxpr(fn)(params, X)))
        q = qpass.transform(fn, rules)
        quantized.append(seconds(lambda q=q: jax.eval_shape(q, params, X)))
    assert len(q.plan(params, X).decisions) == 9 * (1 if name == "scanned" else LAYERS)
    assert min(quantized) <= 2 * min(floats) + 1  # what a neighbour does only adds
