"""Products of attention are told by the softmax between them, in whatever way it is written."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from tests.graph.helpers import shape, sites_of

B, T, S, N, H = 2, 6, 8, 2, 4
HEADS = [shape(B, length, N, H) for length in (T, S, S)]
ROWS = [shape(length, H) for length in (T, S, S)]


def parts(fn, *args):
    """Role and operand with keys or values of every product of two activations."""
    found = sites_of(lambda _, *rest: fn(*rest), {}, *args)
    return [(site.role, site.kv) for site in found if site.role not in ("dlhs", "drhs")]


def plain(q, k, v):
    return jax.nn.softmax(q @ k.T / H**0.5) @ v


def keys_on_the_left(q, k, v):
    scores = lax.dot_general(k, q, (((1,), (1,)), ((), ())))
    return lax.dot_general(jax.nn.softmax(scores, axis=0), v, (((0,), (0,)), ((), ())))


def values_on_the_left(q, k, v):
    weights = jax.nn.softmax(lax.dot_general(q, k, (((1,), (1,)), ((), ()))))
    return lax.dot_general(v, weights, (((0,), (1,)), ((), ()))).T


def written_out(q, k, v):
    scores = q @ k.T
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return (weights @ v) / weights.sum(-1, keepdims=True)


def by_its_logarithm(q, k, v):
    scores = q @ k.T
    return jnp.exp2((scores - jax.nn.logsumexp(scores, -1, keepdims=True)) * 1.4427) @ v


def capped_masked_and_dropped(q, k, v):
    scores = jnp.tanh(q.astype(jnp.bfloat16) @ k.T.astype(jnp.bfloat16) / 50) * 50
    scores = jnp.where(jnp.tri(T, S, dtype=bool), scores.astype(jnp.float32), -1e30)
    weights = jax.nn.softmax(lax.reduce_precision(scores + jnp.arange(S), 8, 7))
    weights = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.9, (T, S)), weights / 0.9, 0)
    return weights.astype(jnp.bfloat16) @ v.astype(jnp.bfloat16)


def with_a_sink(q, k, v):
    scores = jnp.concatenate([q @ k.T, jnp.zeros((T, 1))], axis=-1)
    return jax.nn.softmax(scores)[:, :-1] @ v


def block_by_block(q, k, v):
    """A running softmax, as flash attention has it."""

    def step(carry, block):
        top, total, out = carry
        scores = q @ block[0].T
        above = jnp.maximum(top, scores.max(-1, keepdims=True))
        weights, less = jnp.exp(scores - above), jnp.exp(top - above)
        total = total * less + weights.sum(-1, keepdims=True)
        return (above, total, out * less + weights @ block[1]), None

    start = jnp.full((T, 1), -jnp.inf), jnp.zeros((T, 1)), jnp.zeros((T, H))
    blocks = k.reshape(2, S // 2, H), v.reshape(2, S // 2, H)
    (_, total, out), _ = lax.scan(step, start, blocks)
    return out / total


def layers_of_a_scan(q, k, v):
    return lax.scan(lambda x, kv: (plain(x, *kv), None), q, (jnp.stack([k, k]), jnp.stack([v, v])))


def mapped(q, k, v):
    return jax.vmap(plain, (0, None, None))(jnp.stack([q, q]), k, v)


def rematerialized(q, k, v):
    return jax.grad(lambda q: jax.checkpoint(plain)(q, k, v).sum())(q)


RIGHT = [("qk", 1), ("pv", 1)]
ROW_WAYS = {
    plain: RIGHT,
    keys_on_the_left: [("qk", 0), ("pv", 1)],
    values_on_the_left: [("qk", 1), ("pv", 0)],
    written_out: RIGHT,
    by_its_logarithm: RIGHT,
    capped_masked_and_dropped: RIGHT,
    with_a_sink: RIGHT,
    block_by_block: RIGHT,
    layers_of_a_scan: RIGHT,
    mapped: RIGHT,
    rematerialized: [*RIGHT, ("qk", 1)],  # the backward pass runs the scores again
}


@pytest.mark.parametrize("fn", ROW_WAYS, ids=lambda fn: fn.__name__)
def test_ways_to_attend(fn):
    assert parts(fn, *ROWS) == ROW_WAYS[fn]


def grouped(q, k, v):
    q = q.reshape(B, T, 1, N, H)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k[:, :, :1])
    return jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores), v[:, :, :1])


def grouped_in_one_axis(q, k, v):
    """Heads and groups are one axis in the softmax."""
    scores = jnp.einsum("btkgh,bskh->bkgts", q.reshape(B, T, 1, N, H), k[:, :, :1])
    weights = jax.nn.softmax(scores.reshape(B, N, T, S)).reshape(B, 1, N, T, S)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v[:, :, :1])


@pytest.mark.parametrize(
    "fn", [grouped, grouped_in_one_axis, nnx.dot_product_attention, jax.nn.dot_product_attention]
)
def test_heads_and_groups(fn):
    assert [role for role, _ in parts(fn, *HEADS)] == ["qk", "pv"]


def keys_are_told(fn, *args):
    """Sizes of the operand with keys or values."""
    found = [s for s in sites_of(lambda _, *rest: fn(*rest), {}, *args) if s.kv is not None]
    return [(site.lhs_shape, site.rhs_shape)[site.kv] for site in found]


def test_the_operand_with_keys_whichever_way_an_einsum_turns_it():
    assert keys_are_told(grouped, *HEADS) == [(B, S, 1, H)] * 2


def test_modules_of_flax():
    x = shape(B, T, 8)
    module = linen.MultiHeadDotProductAttention(num_heads=2)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    found = sites_of(module.apply, params, x)
    assert [site.role for site in found].count("qk") == 1
    assert [site.role for site in found].count("pv") == 1


def test_backward_products_know_the_operand_that_holds_keys():
    for turn in (plain, keys_on_the_left):
        grads = jax.grad(lambda q, k, v, turn=turn: (turn(q, k, v) ** 2).sum(), (0, 1, 2))
        found = sites_of(lambda _, *rest, grads=grads: grads(*rest), {}, *ROWS)
        names = {site.id: site.role for site in found}
        backward = sorted((names[s.forward], s.role) for s in found if s.forward)
        assert backward == [("pv", "dlhs"), ("pv", "drhs"), ("qk", "dlhs"), ("qk", "drhs")]
        of_keys = {(s.role, s.eqn.outvars[0].aval.shape) for s in found if s.forward}
        assert ("dlhs", (T, H)) in of_keys or ("dlhs", (H, T)) in of_keys  # of queries


def contrastive(q, k, v):
    return -jnp.diag(jax.nn.log_softmax(k @ v.T)).mean() + q.sum()


def gated(q, k, v):
    return jax.nn.sigmoid(q @ k.T) @ v


def softmax_of_keys(q, k, v):
    return jax.nn.softmax(q) @ (jax.nn.softmax(k, axis=0).T @ v)


def softmax_over_queries(q, k, v):
    """Probabilities over queries, summed over keys: no attention to keys."""
    return jax.nn.softmax(q @ k.T, axis=0) @ v


@pytest.mark.parametrize("fn", [contrastive, gated, softmax_of_keys, softmax_over_queries])
def test_what_is_no_attention(fn):
    assert {role for role, _ in parts(fn, *ROWS)} == {"activations"}
