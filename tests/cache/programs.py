"""Attention with a cache in the ways in which programs write one, and what it gives in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

B, S, N, H, D, L = 2, 12, 2, 8, 6, 3
SHAPE = (B, S, N, H)
BOTH = "cache/**"


def params(layers: int | None = None, seed: int = 0) -> dict:
    """Weights of one layer, or stacked."""
    rng = np.random.default_rng(seed)
    lead = () if layers is None else (layers,)
    shapes = {"q": (D, N, H), "k": (D, N, H), "v": (D, N, H), "o": (N, H, D)}
    return {n: jnp.asarray(rng.normal(size=(*lead, *s)), jnp.float32) for n, s in shapes.items()}


def inputs(steps: int, seed: int = 1, batch: int = B) -> jax.Array:
    """``f32[batch, steps, D]``."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, steps, D)), jnp.float32)


def empty(shape: tuple[int, ...] = SHAPE) -> dict:
    """A cache of zeros."""
    return {"k": jnp.zeros(shape), "v": jnp.zeros(shape)}


def project(p, x) -> Any:
    """Queries, keys and values ``[B, T, N, H]``."""
    return tuple(jnp.einsum("btd,dnh->btnh", x, p[name]) for name in "qkv")


def attend(q, k, v, seen):
    """``q [B, T, N, H]`` over keys and values ``[B, S, N, H]``, masked by ``seen [T, S]``."""
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) * H**-0.5
    weights = jax.nn.softmax(jnp.where(seen, logits, -1e30), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def seen_until(pos, steps: int, length: int = S):
    """Whether a query sees a place of the cache."""
    return jnp.arange(length) <= pos + jnp.arange(steps)[:, None]


def out(p, x, mixed):
    """The result of a layer."""
    return x + jnp.einsum("btnh,nhd->btd", mixed, p["o"])


def write(cache, k, v, starts):
    """Keys and values, written from there on."""
    put = lax.dynamic_update_slice
    return {"k": put(cache["k"], k, starts), "v": put(cache["v"], v, starts)}


def step(p, x, cache, pos):
    """One layer; what a decoding step and a prompt are."""
    q, k, v = project(p, x)
    cache = write(cache, k, v, (0, pos, 0, 0))
    mixed = attend(q, cache["k"], cache["v"], seen_until(pos, x.shape[1], cache["k"].shape[1]))
    return out(p, x, mixed), cache


def ring(p, x, cache, pos):
    """A buffer in which the newest token takes the place of the oldest."""
    q, k, v = project(p, x)
    cache = write(cache, k, v, (0, pos % S, 0, 0))
    return out(p, x, attend(q, cache["k"], cache["v"], seen_until(pos, 1))), cache


def rows(p, x, cache, pos):
    """Every sequence at its own position ``pos [B]``, one token each, by scatter."""
    q, k, v = project(p, x)
    here = jnp.arange(B), pos
    cache = {"k": cache["k"].at[here].set(k[:, 0]), "v": cache["v"].at[here].set(v[:, 0])}
    seen = (jnp.arange(S) <= pos[:, None])[:, None, None]
    return out(p, x, attend(q, cache["k"], cache["v"], seen)), cache


def mapped(p, x, cache, pos):
    """The same, by `jax.vmap` over sequences."""

    def one(x, k, v, pos):
        y, cache = step(p, x[None], {"k": k[None], "v": v[None]}, pos)
        return y[0], jax.tree.map(lambda a: a[0], cache)

    return jax.vmap(one)(x, cache["k"], cache["v"], pos)


def carried(p, x, cache, pos):
    """Stacked layers; the caches of all are carried through a scan."""

    def layer(state, own):
        x, cache, number = state
        q, k, v = project(own, x)
        cache = write(cache, k[None], v[None], (number, 0, pos, 0, 0))
        mixed = attend(q, cache["k"][number], cache["v"][number], seen_until(pos, x.shape[1]))
        return (out(own, x, mixed), cache, number + 1), None

    (x, cache, _), _ = lax.scan(layer, (x, cache, jnp.int32(0)), p)
    return x, cache


def scanned(p, x, cache, pos):
    """Stacked layers; a scan hands each its cache and stacks them again."""

    def layer(x, given):
        return step(given[0], x, given[1], pos)

    return lax.scan(layer, x, (p, cache))


def written_back(p, x, cache, pos):
    """Stacked layers without a scan; each layer's cache is cut out, updated and put back."""
    for number in range(L):
        own = jax.tree.map(lambda a, n=number: a[n], p)
        x, layer = step(own, x, jax.tree.map(lambda a, n=number: a[n], cache), pos)
        put = lambda a, b, n=number: lax.dynamic_update_index_in_dim(a, b, n, 0)  # noqa: E731
        cache = jax.tree.map(put, cache, layer)
    return x, cache


def chosen(p, x, cache, pos):
    """Written in one branch only."""
    q, k, v = project(p, x)
    cache = lax.cond(pos < S, lambda c: write(c, k, v, (0, pos, 0, 0)), lambda c: c, cache)
    return out(p, x, attend(q, cache["k"], cache["v"], seen_until(pos, x.shape[1]))), cache


PAGES, PAGE = 8, 4
POOL = (PAGES, PAGE, N, H)


def paged(p, x, cache, table, pos):
    """Pages of a pool, of which ``table [B, S / PAGE]`` names each sequence's."""
    q, k, v = project(p, x)
    place = table[jnp.arange(B), pos // PAGE], pos % PAGE
    cache = {"k": cache["k"].at[place].set(k[:, 0]), "v": cache["v"].at[place].set(v[:, 0])}
    k, v = (cache[name][table].reshape(B, -1, N, H) for name in "kv")
    seen = (jnp.arange(k.shape[1]) <= pos[:, None])[:, None, None]
    return out(p, x, attend(q, k, v, seen)), cache


def generate(p, x, cache, count):
    """A loop that goes on as long as it is told, each token the last one's result."""

    def body(state):
        pos, x, cache = state
        y, cache = step(p, x, cache, pos)
        return pos + 1, y / jnp.abs(y).max(), cache

    _, x, cache = lax.while_loop(lambda s: s[0] < count, body, (jnp.int32(0), x, cache))
    return x, cache
