"""QTensors inside `shard_map` and explicit meshes: codes and scales are split as the weight was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from qpass.ops.layout import partition_specs
from tests.programs import normal, rules

RNG = np.random.default_rng(0)


def mesh(kind=AxisType.Auto):
    return Mesh(np.array(jax.devices()[:2]), ("x",), axis_types=(kind,))


def split(w_spec):
    """A product with a weight that is split over two devices."""
    contracted = w_spec == P("x", None)
    x_spec = P(None, "x") if contracted else P()
    out_spec = P() if contracted else P(None, "x")

    def body(w, x):
        return jax.lax.psum(x @ w, "x") if contracted else x @ w

    def fn(p, x):
        mapped = jax.shard_map(body, mesh=mesh(), in_specs=(w_spec, x_spec), out_specs=out_spec)
        return mapped(p["w"], x)

    return fn


def arguments(k=32):
    return {"w": normal(RNG, (k, 16))}, normal(RNG, (4, k))


@pytest.mark.parametrize("spec", [P("x", None), P(None, "x")], ids=["contracted", "free"])
@pytest.mark.parametrize(
    "weight", ["int8", qpass.int4.grouped(8), qpass.int8.per_tensor()], ids=str
)
def test_stored_weights_enter_a_shard_map(spec, weight):
    params, x = arguments()
    q = qpass.transform(split(spec), rules(weight))
    qparams = q.quantize(params, x)
    assert isinstance(qparams["w"], qpass.QTensor)
    assert q.plan(qparams, x).rewritten_notes == ()
    plain = qpass.transform(lambda p, x: x @ p["w"], rules(weight))
    wanted = plain(plain.quantize(params, x), x)
    np.testing.assert_allclose(jax.jit(q)(qparams, x), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(q)(params, x), wanted, rtol=1e-5, atol=1e-5)


def test_a_shard_that_begins_inside_a_group_has_the_scales_of_both_parts():
    """48 rows in groups of 16 over two devices: the second device begins in the middle."""
    params, x = arguments(48)
    weight = qpass.int8.grouped(16)
    q = qpass.transform(split(P("x", None)), rules(weight))
    qparams = q.quantize(params, x)
    plan = q.plan(qparams, x)
    assert plan.rewritten_notes == ()
    assert [row.notes for row in plan.rows] == [()]
    plain = qpass.transform(lambda p, x: x @ p["w"], rules(weight))
    wanted = plain(plain.quantize(params, x), x)
    np.testing.assert_allclose(jax.jit(q)(qparams, x), wanted, rtol=1e-5, atol=1e-5)


def test_specs_follow_the_physical_order():
    params, x = arguments()
    plain = qpass.transform(lambda p, x: x @ p["w"], rules(qpass.int4.grouped(8)))
    q = plain.quantize(params, x)["w"]
    specs = partition_specs(q, P("x", None), mesh())
    assert specs.codes[q.physical(0)] == "x"
    assert specs.codes[q.physical(1)] is None
    assert specs.scale == specs.codes
    channel = qpass.transform(lambda p, x: x @ p["w"], rules("int8")).quantize(params, x)["w"]
    assert partition_specs(channel, P("x", None), mesh()).scale == P(None, None)


def test_gradients_inside_a_shard_map():
    params, x = arguments()
    for spec in (P("x", None), P(None, "x")):
        fn = split(spec)
        q = qpass.transform(fn, rules("int8", "int8"))
        got = jax.jit(jax.grad(lambda p, q=q: jnp.sum(q(p, x) ** 2)))(params)["w"]
        wanted = jax.jit(jax.grad(lambda p, fn=fn: jnp.sum(fn(p, x) ** 2)))(params)["w"]
        assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("w_spec", "x_spec"), [(P(None, "x"), P()), (P(), P("x", None)), (P(), P())]
)
def test_explicit_meshes(w_spec, x_spec):
    explicit = mesh(AxisType.Explicit)
    params, x = arguments()
    plain = qpass.transform(lambda p, x: jnp.tanh(x @ p["w"]), rules("int8", "int8"))
    wanted = plain(params, x)
    with jax.set_mesh(explicit):
        placed = {"w": jax.device_put(params["w"], NamedSharding(explicit, w_spec))}
        x = jax.device_put(x, NamedSharding(explicit, x_spec))
        float_out = jax.jit(lambda p, x: jnp.tanh(x @ p["w"]))(placed, x)
        got = jax.jit(plain)(placed, x)
        stored = jax.jit(plain)(plain.quantize(placed, x), x)
    assert got.sharding == float_out.sharding == stored.sharding
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stored, wanted, rtol=1e-5, atol=1e-5)
