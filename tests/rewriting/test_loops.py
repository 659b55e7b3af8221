"""Loops: scan, while, fori, map, associative scan."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.jaxprs import count
from tests.rewriting.oracle import INT8, check, close, leaves, plain, quantized, random

P = {"w": random(3, 8, 8, seed=1), "v": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"unroll": 2}])
def test_scan_over_stacked_layers(options):
    def model(dot):
        def f(p, x):
            def layer(c, w):
                y = jnp.tanh(dot(c, w))
                return y, dot(y, p["v"]).sum()

            return lax.scan(layer, x, p["w"], **options)

        return f

    q = check(model, P, X, vmap=not options)
    (scan,) = (e for e in jax.make_jaxpr(q)(P, X).eqns if e.primitive.name == "scan")
    for name in ("reverse", "unroll"):
        if name in options:
            assert scan.params[name] == options[name]


def test_scan_without_inputs():
    def model(dot):
        return lambda p, x: lax.scan(lambda c, _: (jnp.tanh(dot(c, p["v"])), None), x, None, 3)[0]

    check(model, P, X)


def test_scan_over_rows_of_the_input():
    def model(dot):
        return lambda p, x: lax.scan(lambda c, row: (c, dot(row[None], p["v"])), 0, x)[1]

    check(model, P, X)


def test_scan_of_rematerialized_scan():
    def model(dot):
        def inner(p, x):
            return lax.scan(lambda c, w: (jnp.tanh(dot(c, w)), None), x, p["w"])[0]

        def f(p, x):
            body = jax.checkpoint(lambda c, _: (inner(p, c), None))
            return lax.scan(body, x, None, length=2)[0]

        return f

    check(model, P, X)


def test_weak_typed_carries_stay_weak():
    def model(dot):
        def f(p, x):
            def step(c, _):
                return ((dot(c[0], p["v"]) * 0.1, c[1] + 1.0), None)

            return lax.scan(step, (x, 0.0), None, length=3)[0]

        return f

    q = check(model, P, X)
    weak = [aval.weak_type for aval in jax.make_jaxpr(model(plain))(P, X).out_avals]
    assert [aval.weak_type for aval in jax.make_jaxpr(q)(P, X).out_avals] == weak == [False, True]


def test_integer_and_key_carries():
    def model(dot):
        def f(p, x):
            def step(carry, key):
                y, n, state = carry
                state, now = jax.random.split(state)
                mask = jax.random.bernoulli(jax.random.fold_in(now, n), 0.5, y.shape)
                kept = jnp.where(jax.random.bernoulli(key, 0.9, y.shape), mask, 1)
                return (jnp.tanh(dot(y, p["v"])) * kept, n + 1, state), n

            start = (x, jnp.int32(0), jax.random.key(7))
            return lax.scan(step, start, jax.random.split(jax.random.key(3), 3))

        return f

    check(model, P, X)


def test_a_narrow_carry_keeps_its_dtype():
    def f(p, x):
        return lax.scan(lambda c, w: (plain(c, w), None), x, p["w"])[0]

    params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (P, X))
    assert qpass.transform(f, INT8)(params, x).dtype == jnp.bfloat16


def test_while_with_a_product_in_both_programs():
    def model(dot):
        def f(p, x):
            def cond(c):
                return (c[1] < 4) & (dot(c[0], p["v"]).sum() < 1e3)

            def body(c):
                return (jnp.tanh(dot(c[0], p["w"][0]) + 0.1), c[1] + 1)

            return lax.while_loop(cond, body, (x, 0))

        return f

    check(model, P, X, grad=False)


def test_while_is_differentiable_around():
    def model(dot):
        def f(p, x):
            y = lax.while_loop(
                lambda c: c[1] < 3,
                lambda c: (jnp.tanh(dot(c[0], p["v"])), c[1] + 1),
                (lax.stop_gradient(x), 0),
            )[0]
            return dot(x, p["w"][1]) + lax.stop_gradient(y)

        return f

    check(model, {"w": P["w"], "v": P["v"]}, X, grad=False)


def test_fori_with_static_bounds():
    def model(dot):
        return lambda p, x: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(dot(c, p["v"])), x)

    check(model, P, X)


def test_fori_with_dynamic_bounds_indexing_stacked_weights():
    def model(dot):
        def f(p, x):
            n = jnp.where(x[0, 0] > 100, 1, 3)
            return lax.fori_loop(0, n, lambda i, c: jnp.tanh(dot(c, p["w"][i])), x)

        return f

    check(model, {"w": P["w"]}, X, grad=False)


def test_a_weight_carried_unchanged_through_a_loop_stays_stored():
    def model(dot):
        def f(p, x):
            def step(c, _):
                return ((jnp.tanh(dot(c[0], c[1])), c[1]), None)

            y, w = lax.scan(step, (x, p["v"]), None, length=2)[0]
            return dot(y, w)

        return f

    params = {"v": P["v"]}
    q = check(model, params, X)
    stored = q.quantize(params, X)
    assert all(isinstance(leaf, qpass.QTensor) for leaf in leaves(stored))
    assert count(jax.make_jaxpr(q)(stored, X), "dot_general") == 0


def test_a_weight_updated_by_a_loop_is_quantized_anew_each_time():
    def f(dot):
        def run(p, x):
            def step(c, _):
                return ((jnp.tanh(dot(c[0], c[1])), 0.5 * c[1]), None)

            return lax.scan(step, (x, p["v"]), None, length=2)[0][0]

        return run

    q = qpass.transform(f(plain), qpass.Rule(role="*", weight="int8", act="int8"), strict=False)
    close(q({"v": P["v"]}, X), f(quantized)({"v": P["v"]}, X))


def test_map_with_and_without_batches():
    def model(dot):
        return lambda p, x: lax.map(lambda row: dot(row[None], p["v"]), x, batch_size=3)

    check(model, P, X)


def test_checkpointed_and_unrolled_loops_give_the_same():
    def model(dot):
        def f(p, x):
            for i in range(3):
                x = jnp.tanh(dot(x, p["w"][i]))
            return x

        return f

    check(model, {"w": P["w"]}, X)


def test_a_mapped_while_in_which_each_example_stops_when_it_is_done():
    """Its predicate is an array, which `jax.lax.while_loop` would not take."""

    def model(dot):
        def one(p, row):
            def more(c):
                return (jnp.sum(c[0] * c[0]) > 0.3) & (c[1] < 6)

            def body(c):
                return (0.6 * jnp.tanh(dot(c[0], p)), c[1] + 1)

            return lax.while_loop(more, body, (row, 0))

        return lambda p, x: jax.vmap(one, (None, 0))(p["v"], x[:, None])

    q = check(model, {"v": P["v"]}, X, grad=False)
    assert len(set(q({"v": P["v"]}, X)[1].tolist())) > 1
