"""`vmap` in its forms: named axes, mixed axes, mapped predicates, inside and outside."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import qpass
from tests.rewriting.dequantized import W8, check_at_rounded_weights, dequantized, unchanged
from tests.rewriting.oracle import INT8, close, compiled, leaves, plain, quantized, random, total

P = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def layers(p, x):
    return jnp.tanh(plain(jnp.tanh(plain(x, p["a"])), p["b"]))


def slope(f):
    return jax.value_and_grad(lambda p, x: total(f(p, x)), (0, 1))


def test_axes_of_weights_and_inputs_mixed():
    stacks = {"a": random(3, 8, 8, seed=4), "b": random(8, 8, 3, seed=5)}
    xs = random(4, 3, 8, seed=6)
    q = qpass.transform(layers, W8)
    wanted = []
    for k in range(3):
        one = {"a": stacks["a"][k], "b": stacks["b"][..., k]}
        wanted.append(layers(dequantized(q, one, xs[:, k]), xs[:, k]))
    got = compiled(jax.vmap(q, ({"a": 0, "b": -1}, 1), 1))(stacks, xs)
    close(got, jnp.stack(wanted, 1))
    same = jax.vmap(q, ({"a": None, "b": None}, None), axis_size=2)(P, X)
    close(same, jnp.stack([q(P, X)] * 2))


def test_sums_over_a_named_axis_outside():
    def f(p, x):
        return plain(x, p["a"]) - lax.pmean(plain(x, p["b"]), "rows")

    q = qpass.transform(f, INT8)
    xs = jnp.stack([X, -0.5 * X])

    def mapped(fn):
        return jax.vmap(fn, (None, 0), axis_name="rows")

    a, b = (jnp.stack([quantized(x, P[name]) for x in xs]) for name in ("a", "b"))
    close(compiled(mapped(q))(P, xs), a - b.mean(0), 1e-5)


def test_sums_over_a_named_axis_inside():
    def f(p, x):
        def row(r):
            return plain(r[None], p["a"]) - lax.pmean(plain(r[None], p["b"]), "rows")

        return jax.vmap(row, axis_name="rows")(x)

    check_at_rounded_weights(f, slope, P, X)


def test_an_axis_that_is_spread_over_devices():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def f(p, x):
        h = jnp.tanh(plain(x, p["a"]))
        return plain(lax.with_sharding_constraint(h, NamedSharding(mesh, PartitionSpec())), p["b"])

    q = qpass.transform(f, INT8)
    xs = random(4, 4, 8, seed=7)
    got = jax.jit(jax.vmap(q, (None, 0), spmd_axis_name="d"))
    close(got(P, xs), jnp.stack([quantized(jnp.tanh(quantized(x, P["a"])), P["b"]) for x in xs]))
    assert '"d"' in got.lower(P, xs).as_text()


def test_twice_with_gradients_between():
    q = qpass.transform(layers, INT8)
    xs = random(2, 2, 4, 8, seed=9)
    got = jax.vmap(jax.vmap(slope(q), (None, 0)), (None, 0))
    wanted = [slope(q)(P, x) for row in xs for x in row]
    stacked = jax.tree.map(lambda *a: jnp.stack(a).reshape(2, 2, *a[0].shape), *wanted)
    close(compiled(got)(P, xs), stacked, 1e-5)


def test_an_ensemble_inside_and_outside():
    stack = {"w": random(3, 8, 8, seed=4)}

    def f(p, x):
        return jax.vmap(lambda w: jnp.tanh(plain(x, w)))(p["w"])

    check_at_rounded_weights(f, slope, stack, X)
    one = qpass.transform(lambda p, x: jnp.tanh(plain(x, p["w"])), W8)
    whole = qpass.transform(f, W8)
    close(jax.vmap(one, (0, None))(stack, X), whole(stack, X))


def test_random_keys():
    def f(p, x, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return plain(x * kept, p["a"]), jax.random.normal(p["key"], (2,)), jax.random.split(key)

    keys = jax.random.split(jax.random.key(1), 2)
    q = qpass.transform(f, INT8)
    axes = ({"a": None, "key": 0}, None, 0)
    params = {"a": P["a"], "key": jax.random.split(jax.random.key(2, impl="rbg"), 2)}
    got = jax.vmap(q, axes)(params, X, keys)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, X.shape))(keys)
    close(got[0], jnp.stack([quantized(X * mask, P["a"]) for mask in kept]))
    close(got[1:], jax.vmap(f, axes)(params, X, keys)[1:])


BRANCHES = [
    lambda p, r: plain(r, p["a"]),
    lambda p, r: jnp.sin(plain(r, p["b"])),
    lambda p, r: r,
]


@pytest.mark.parametrize("change", [unchanged, slope], ids=["value", "gradient"])
def test_a_mapped_choice_runs_every_branch(change):
    """`switch` under a mapped index becomes a choice between results; weights stay stored."""

    def f(p, x):
        def row(i, r):
            return lax.switch(i, [lambda r, b=b: b(p, r) for b in BRANCHES], r[None])

        return jax.vmap(row)(jnp.arange(4) % 3, x)

    q = check_at_rounded_weights(f, change, P, X)
    assert all(d.action and d.stored for d in q.plan(P, X).decisions)
    assert all(isinstance(leaf, qpass.QTensor) for leaf in leaves(q.quantize(P, X)))
    close(q(q.quantize(P, X), X), q(P, X))
    assert not q.plan(P, X).rewritten_notes


def test_a_choice_mapped_from_outside():
    def f(p, x):
        return lax.cond(x[0, 0] > 0, lambda x: plain(x, p["a"]), lambda x: plain(x, p["b"]) * 2, x)

    q = qpass.transform(f, INT8)
    xs = jnp.stack([X, -X])
    wanted = [slope(q)(P, x) for x in xs]
    assert wanted[0][1][0]["a"].any() != wanted[1][1][0]["a"].any()
    got = compiled(jax.vmap(slope(q), (None, 0)))(P, xs)
    close(got, jax.tree.map(lambda *a: jnp.stack(a), *wanted), 1e-5)


def test_a_loop_that_ends_earlier_for_some():
    def f(p, x):
        def more(c):
            return (c[1] < 4) & (plain(c[0], p["b"])[0, 0] * 0 + x[0, 0] > c[1] - 2.2)

        return lax.while_loop(more, lambda c: (jnp.tanh(plain(c[0], p["a"])), c[1] + 1), (x, 0))

    def rows(f):
        return lambda p, x: jax.vmap(lambda r: f(p, r[None]))(x)

    check_at_rounded_weights(f, rows, P, X + jnp.arange(4.0)[:, None])
