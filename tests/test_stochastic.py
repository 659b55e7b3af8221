"""Stochastic rounding in rules: keys come from the caller, and every site has its own."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import qpass
from qpass.errors import QuantizeError
from qpass.keys import site_keys
from tests.programs import CASES, matmul, rules, scanned

SR = "int4 sr8"
KEY = jax.random.key(3)


def arguments(name="matmul"):
    return CASES[name].arguments()


def test_a_call_without_a_key_names_the_sites_and_the_way_out():
    params, x = arguments()
    q = qpass.transform(matmul, rules(SR, SR))
    assert q.plan(params, x).decisions[0].action is not None
    for call in (q, jax.jit(q), q.compare):
        with pytest.raises(QuantizeError, match=r"q.with_key\(key\).*w/dot_general.0"):
            call(params, x)
    with pytest.raises(QuantizeError, match=r"q.with_key\(key\).quantize.*: w is stored as int4"):
        q.quantize(params, x)


def test_stored_weights_need_no_key():
    params, x = arguments()
    q = qpass.transform(matmul, rules(SR, "int8"))
    stored = q.with_key(KEY).quantize(params, x)
    q(stored, x)


def test_a_key_repeats_and_another_one_does_not():
    params, x = arguments()
    q = qpass.transform(matmul, rules("int8", SR))
    first = q.with_key(KEY)(params, x)
    np.testing.assert_array_equal(q.with_key(KEY)(params, x), first)
    assert np.any(np.asarray(q.with_key(jax.random.key(4))(params, x)) != first)
    old_style = q.with_key(jax.random.PRNGKey(3))(params, x)
    np.testing.assert_array_equal(old_style, first)


def test_results_are_right_in_the_mean():
    """Over keys, against the product of float operands: 4 sigma."""
    params, x = arguments()
    q = qpass.transform(matmul, rules(SR, SR))
    keys = jax.random.split(KEY, 600)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: q.with_key(key)(params, x)))(keys))
    sigma = draws.std(axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(draws.mean(axis=0) - x @ params["w"]) < 4.5 * sigma)
    assert sigma.min() > 0


def test_on_the_fly_and_stored_with_one_key_are_equal_bit_for_bit():
    params, x = arguments()
    q = qpass.transform(matmul, rules(SR, SR)).with_key(KEY)
    on_the_fly, served = jax.jit(q)(params, x), jax.jit(q)(q.quantize(params, x), x)
    np.testing.assert_array_equal(on_the_fly, served)


def test_every_iteration_of_a_scan_draws_its_own():
    """The same layer on the same input, with nothing between that could tell iterations apart."""

    def same_again(p, x):
        return lax.scan(lambda _, w: (0.0, x @ w), 0.0, p["w"])[1]

    params, x = arguments("scanned")
    params = {"w": jnp.broadcast_to(params["w"][:1], params["w"].shape)}
    got = qpass.transform(same_again, rules("int8", SR)).with_key(KEY)(params, x)
    assert np.any(np.asarray(got[0]) != got[1])
    assert np.any(np.asarray(got[1]) != got[2])
    nearest = qpass.transform(same_again, rules("int8", "int4"))(params, x)
    np.testing.assert_array_equal(nearest[0], nearest[1])


def test_every_site_draws_its_own():
    params, x = arguments()

    def twice(p, x):
        return x @ p["a"], x @ p["b"]

    q = qpass.transform(twice, rules("int8", SR)).with_key(KEY)
    one, other = q({"a": params["w"], "b": params["w"]}, x)
    assert np.any(np.asarray(one) != other)


def test_gradients_are_those_of_the_values_that_were_drawn():
    """Under remat too, whose second run has to draw the same."""
    params, x = arguments()
    q = qpass.transform(lambda p, x: jnp.sum(jnp.sin(jax.checkpoint(matmul)(p, x))), rules(SR, SR))
    drawn = qpass.transform(matmul, rules(SR, SR)).with_key(KEY)
    y = drawn(params, x)
    dw, dx = (jax.grad(q.with_key(KEY), argnums=k)(params, x) for k in (0, 1))
    wq = drawn.quantize(params, x)["w"].dequantize()
    np.testing.assert_allclose(dx, jnp.cos(y) @ wq.T, rtol=1e-4, atol=1e-4)
    assert np.isfinite(np.asarray(dw["w"])).all()


def test_in_a_scanned_network_under_jit_and_grad():
    params, x = arguments("scanned")
    q = qpass.transform(lambda p, x: jnp.sum(scanned(p, x)), rules("fp8_e4m3 sr", "fp8_e5m2 sr8"))
    step = jax.jit(lambda key, p, x: jax.grad(q.with_key(key))(p, x)["w"])
    first = step(KEY, params, x)
    np.testing.assert_array_equal(step(KEY, params, x), first)
    assert np.any(np.asarray(step(jax.random.key(9), params, x)) != first)


def test_other_keys_need_no_other_compilation():
    params, x = arguments()
    traced = []

    def counted(p, x):
        traced.append(1)
        return matmul(p, x)

    q = qpass.jit(counted, rules=rules("int8", SR))
    results = [q.with_key(jax.random.key(k))(params, x) for k in range(4)]
    assert len(traced) == 1
    assert np.any(np.asarray(results[0]) != results[1])
    assert q.taking_given._pure._cache_size() == 1


def test_jit_stores_weights_with_a_key():
    params, x = arguments()
    q = qpass.jit(matmul, rules=rules(SR))
    stored = q.with_key(KEY).quantize(params, x)
    again = qpass.transform(matmul, rules(SR)).with_key(KEY).quantize(params, x)
    np.testing.assert_array_equal(stored["w"].codes, again["w"].codes)
    np.testing.assert_array_equal(q.with_key(KEY)(params, x), q(stored, x))


def test_a_while_loop_is_refused():
    def loop(p, x):
        return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ p["w"]), (0, x))[1]

    params = {"w": arguments("scanned")[0]["w"][0]}
    q = qpass.transform(loop, rules("int8", SR)).with_key(KEY)
    with pytest.raises(QuantizeError, match=r"w/dot_general.0 to the nearest.*while loop"):
        q(params, arguments("scanned")[1])


def test_backward_products_of_a_training_step():
    """The gradient that comes in is rounded stochastically, as fp8 training does."""
    params, x = arguments()
    step = jax.grad(lambda p, x: jnp.sum(jnp.sin(matmul(p, x))))
    given = [qpass.Rule(role="drhs", act="fp8_e5m2 sr", grad="fp8_e5m2 sr"), *rules("int8", "int8")]
    q = qpass.transform(step, given)
    draws = [np.asarray(q.with_key(jax.random.key(k))(params, x)["w"]) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])


@pytest.mark.parametrize("key", [3, jnp.ones(2), jax.random.split(KEY, 2)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(QuantizeError, match="one random key"):
        qpass.transform(matmul, rules(SR)).with_key(key)


def test_what_a_rematerialized_backward_pass_runs_again_rounds_alike():
    """In a training step that is transformed as a whole; layers in a scan, which runs backward."""

    def loss(p, x):
        layer = jax.checkpoint(lambda h, w: jnp.sin(h @ w))
        return jnp.sum(lax.scan(lambda h, w: (layer(h, w), None), x, p["w"])[0])

    params, x = arguments("scanned")
    plan = qpass.transform(jax.grad(loss), rules("int8", SR)).plan(params, x)
    keys = site_keys(plan, KEY)
    runs = [d.site for d in plan.decisions if d.action is not None]
    assert [site.forward for site in runs] == ["", runs[0].id]
    first, again = (jax.random.key_data(keys[site.key]) for site in runs)
    assert first.shape[0] == 3
    np.testing.assert_array_equal(first, again)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=[])
@dataclass
class Layer:
    w: jax.Array

    def __call__(self, x):
        return x @ self.w


def test_model_objects_take_keys_too():
    params, x = arguments()
    wanted = qpass.transform(matmul, rules(SR, SR)).with_key(KEY)(params, x)
    keyed = qpass.transform(Layer(params["w"]), rules(SR, SR)).with_key(KEY)
    np.testing.assert_array_equal(keyed(x), wanted)
    np.testing.assert_array_equal(keyed.quantize(x)(x), wanted)


def test_a_key_for_each_example_of_a_batch():
    params, x = arguments()
    q = qpass.transform(matmul, rules(SR, SR))
    keys, xs = jax.random.split(KEY, 2), jnp.stack([x, x])
    got = jax.vmap(lambda key, x: q.with_key(key)(params, x))(keys, xs)
    for one, key in zip(got, keys, strict=True):
        np.testing.assert_allclose(one, q.with_key(key)(params, x), rtol=1e-5, atol=1e-5)


def of_equal_halves(**options):
    """What four devices in a square make of two equal halves: each half is on two of them."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    halves = {"mesh": mesh, "in_specs": (P(), P("a")), "out_specs": P("a")}
    params, x = arguments()
    x = jnp.concatenate([x, x])
    q = qpass.transform(jax.shard_map(matmul, **halves, **options), rules("int8", SR))
    q = q.with_key(KEY)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(q(p, x)))))(params)
    assert np.isfinite(np.asarray(slope["w"])).all()
    shards = jax.jit(q)(params, x).addressable_shards
    return [[np.asarray(s.data) for s in shards if s.index[0].start == k] for k in (0, len(x) // 2)]


def test_devices_draw_their_own_for_parts_of_their_own():
    """And alike where they hold the same: such copies would drift apart otherwise."""
    (one, its_copy), (other, another_copy) = of_equal_halves()
    np.testing.assert_array_equal(one, its_copy)
    np.testing.assert_array_equal(other, another_copy)
    assert np.any(one != other)


def test_all_devices_draw_alike_where_jax_does_not_know_what_they_hold():
    (one, its_copy), (other, another_copy) = of_equal_halves(check_vma=False)
    for part in (its_copy, other, another_copy):
        np.testing.assert_array_equal(one, part)
