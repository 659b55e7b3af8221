"""Quantized backward products: their values, and that they are the same wherever they are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import qpass
from qpass import Backward, Rule
from qpass.numerics import as_quantizer, quantize
from tests.jaxprs import count, equations
from tests.rewriting.oracle import random

INT8 = Rule(weight="int8", act="int8", grad="int8")
FP8 = Rule(weight="fp8_e4m3", act="fp8_e4m3", grad="fp8_e5m2")
CODES = Backward(residuals="forward")
KINDS = {
    "int8": INT8,
    "fp8": FP8,
    "tensor": Rule(weight="int8 tensor", act="int8 tensor", grad="int8 tensor"),
    "codes": Rule(weight="int8", act="int8", grad="fp8_e5m2", dlhs=CODES, drhs=CODES),
    "random": Rule(weight="int8", act="int8 sr", grad="int8 sr", dlhs=Backward("int8", "int8 sr")),
    "local": Rule(weight="int8", act="int8", grad="int8", drhs=Backward("int8 g1/2", "int8 g1/2")),
}
KEY = jax.random.key(5)
X, W, G = random(6, 40, seed=1), random(40, 12, seed=2), random(6, 12, seed=3)


def back(x, text, *axes):
    """The float64 values that a quantizer makes of ``x`` for a product over these axes."""
    return np.float64(quantize(jnp.asarray(x), as_quantizer(text), axes).dequantize())


def weighted(p, x):
    """A loss whose cotangent at the product is ``G``."""
    return jnp.sum((x @ p["w"]) * G)


def slopes(*rules):
    q = qpass.transform(weighted, rules)
    dp, dx = jax.jit(jax.grad(q, (0, 1)))({"w": W}, X)
    return dx, dp["w"]


def close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())


@pytest.mark.parametrize(
    ("weight", "act", "grad"),
    [("int8", "int8", "int8"), ("fp8_e4m3", "fp8_e4m3", "fp8_e5m2"), ("int4 g8", "int8", "int8")],
)
def test_each_product_has_scales_along_the_axes_that_it_contracts(weight, act, grad):
    dlhs = back(G, grad, 1) @ back(W, weight, 1).T
    drhs = back(X, act, 0).T @ back(G, grad, 0)
    close(slopes(Rule(weight=weight, act=act, grad=grad)), (dlhs, drhs))


def test_both_products_may_differ_in_each_operand():
    rule = Rule(
        weight="int8",
        act="int8",
        dlhs=Backward("fp8_e5m2", "int4"),
        drhs=Backward("int8 tensor", "fp8_e4m3 g3"),
    )
    dlhs = back(G, "fp8_e5m2", 1) @ back(W, "int4", 1).T
    drhs = back(X, "fp8_e4m3 g3", 0).T @ back(G, "int8 tensor", 0)
    close(slopes(rule), (dlhs, drhs))


def test_one_product_alone_leaves_the_other_straight_through():
    wanted = np.float64(G) @ back(W, "int8", 0).T, back(X, "int8", 0).T @ back(G, "int8", 0)
    close(slopes(Rule(weight="int8", act="int8", drhs="int8")), wanted)


def test_forward_codes_serve_with_their_scales_in_the_gradient():
    w, x = (quantize(jnp.asarray(v), as_quantizer("int8"), (a,)) for v, a in ((W, 0), (X, 1)))
    dlhs = back(G * np.asarray(w.scale), "int8", 1) @ np.float64(w.codes).T
    drhs = np.float64(x.codes).T @ back(G * np.asarray(x.scale), "int8", 0)
    close(
        slopes(Rule(weight="int8", act="int8", grad="int8", dlhs=CODES, drhs=CODES)), (dlhs, drhs)
    )


def test_forward_codes_with_scales_of_groups_are_quantized_again():
    """A scale for each group of K and column cannot go into a gradient that has no K."""
    seen = back(W, "int4 g8", 0)
    dlhs = back(G, "int8", 1) @ back(np.float32(seen), "int4 g8", 1).T
    rule = Rule(weight="int4 g8", act="int8", grad="int8", dlhs=CODES)
    close(slopes(rule)[:1], (dlhs,))


def residuals(rule):
    _, pull = jax.vjp(lambda p: qpass.transform(weighted, [rule])(p, X), {"w": W})
    return {leaf.dtype.name for leaf in jax.tree.leaves(pull) if leaf.shape == X.shape}


def test_codes_are_kept_where_they_serve_and_floats_elsewhere():
    assert residuals(INT8) == {"float32"}
    assert "int8" in residuals(KINDS["tensor"])
    assert "int8" in residuals(KINDS["codes"])


# What follows is differentiated once by `jax.grad` outside, once inside of what is transformed.


def mlp(p, x):
    return (jnp.tanh(x @ p["up"]) @ p["down"]).var()


def scanned(p, x):
    return (lax.scan(lambda c, w: (jnp.sin(c @ w), None), x, p)[0] ** 2).mean()


def rematerialized(p, x):
    step = jax.checkpoint(lambda c, w: (jnp.sin(c @ w), None))
    return (lax.scan(step, x, p)[0] ** 2).mean()


def left(p, x):
    """The weight stands on the left, and the axes are all over the place."""
    return jnp.sin(jnp.einsum("khn,bmkh->bnm", p, x)).sum()


def mapped(p, x):
    return jax.vmap(lambda x: mlp(p, x))(x).sum()


def attention(p, x):
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in "qkv")
    scores = jax.nn.softmax(jnp.einsum("bqnh,bknh->bnqk", q, k) / 2)
    return (jnp.einsum("bnqk,bknh->bqnh", scores, v) ** 2).sum()


MLP = {"up": random(16, 24, seed=4) / 4, "down": random(24, 8, seed=5) / 5}
STACK = random(3, 16, 16, seed=6) / 4
ROWS = random(6, 16, seed=7)
HEADS = {name: random(16, 4, 6, seed=k) / 4 for k, name in enumerate("qkv")}
PROGRAMS = {
    "mlp": (mlp, MLP, ROWS),
    "scan": (scanned, STACK, ROWS),
    "remat": (rematerialized, STACK, ROWS),
    "left": (left, random(12, 2, 10, seed=8) / 4, random(2, 5, 12, 2, seed=9)),
    "vmap": (mapped, MLP, random(3, 6, 16, seed=10)),
    "bf16": (mlp, jax.tree.map(lambda w: w.astype(jnp.bfloat16), MLP), ROWS.astype(jnp.bfloat16)),
}
FEW = [("mlp", "fp8"), ("remat", "random"), ("left", "codes")]
MORE = [("mlp", "int8"), ("mlp", "tensor"), ("mlp", "local"), ("vmap", "int8"), ("bf16", "codes")]
MORE += [("scan", "int8"), ("scan", "codes"), ("remat", "codes"), ("left", "random")]


def outside(fn, rules):
    return jax.grad(qpass.transform(fn, rules).with_key(KEY))


def inside(fn, rules):
    return qpass.transform(jax.grad(fn), rules).with_key(KEY)


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize(
    ("program", "kind"), [*FEW, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE)]
)
def test_inside_and_outside_are_one(program, kind):
    fn, p, x = PROGRAMS[program]
    rules = [KINDS[kind]]
    assert_equal(jax.jit(outside(fn, rules))(p, x), jax.jit(inside(fn, rules))(p, x))


@pytest.mark.slow
def test_mapped_from_outside():
    xs = PROGRAMS["vmap"][2]
    one, other = (jax.vmap(make(mlp, [INT8]), (None, 0)) for make in (outside, inside))
    assert_equal(jax.jit(one)(MLP, xs), jax.jit(other)(MLP, xs))
    total = jax.grad(lambda p: jax.vmap(qpass.transform(mlp, [INT8]), (None, 0))(p, xs).sum())(MLP)
    each = jax.jit(one)(MLP, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.sum(0), atol=1e-6), total, each)


@pytest.mark.slow
def test_devices_of_a_shard_map_sum_their_parts():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def shared(p, x):
        def local(p, x):
            return lax.pmean(mlp(p, x), "d")

        return jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())(p, x)

    rules = [KINDS["random"]]
    x = random(12, 16, seed=11)
    assert_equal(jax.jit(outside(shared, rules))(MLP, x), jax.jit(inside(shared, rules))(MLP, x))
    parts = [jax.grad(qpass.transform(mlp, [INT8]))(MLP, part) for part in (x[:6], x[6:])]
    wanted = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    got = jax.jit(outside(shared, [INT8]))(MLP, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), got, wanted)


def test_near_the_float_gradients_of_attention():
    """Its two products of activations are quantized too, and their four backward products."""
    x = random(2, 5, 16, seed=12)
    rules = [Rule(role="activations", act="int8", grad="int8"), INT8]
    got = jax.jit(outside(attention, rules))(HEADS, x)
    assert_near(got, jax.grad(attention)(HEADS, x), 0.05)
    fp8 = jax.jit(outside(attention, [FP8]))(HEADS, x)
    assert_near(fp8, jax.grad(attention)(HEADS, x), 0.1)


@pytest.mark.slow
def test_products_of_attention_inside_and_outside_are_one():
    x = random(2, 5, 16, seed=12)
    rules = [Rule(role="activations", act="fp8_e4m3", grad="fp8_e5m2"), FP8]
    assert_equal(*(jax.jit(make(attention, rules))(HEADS, x) for make in (outside, inside)))


def assert_near(got, wanted, bound):
    """Mean error against mean magnitude, leaf by leaf; not zero, or nothing was quantized."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert 0 < float(jnp.abs(a - b).mean() / jnp.abs(b).mean()) < bound


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.05), ("fp8", 0.1), ("codes", 0.1)])
def test_near_the_float_gradients(kind, bound):
    assert_near(outside(mlp, [KINDS[kind]])(MLP, ROWS), jax.grad(mlp)(MLP, ROWS), bound)


def products(jaxpr):
    """Dtypes of both operands of every quantized product, and how many float ones there are."""
    found = [e for e in equations(jaxpr) if e.primitive.name == "quantized_matmul"]
    types = [tuple(v.aval.dtype.name for v in e.invars[:2]) for e in found]
    return sorted(types), count(jaxpr, "dot_general")


@pytest.mark.parametrize("make", [outside, inside])
def test_three_products_for_each_site_and_none_in_float(make):
    def both(p, x):
        return jax.grad(lambda p, x: mlp(p, jnp.sin(x)), (0, 1))(p, x)

    def once(fn, rules):
        return make(lambda p: fn(p[0], jnp.sin(p[1])), rules)

    e4, e5 = "float8_e4m3fn", "float8_e5m2"
    assert products(jax.make_jaxpr(once(mlp, [FP8]))((MLP, ROWS))) == (
        [(e4, e4)] * 2 + [(e5, e4)] * 4,
        0,
    )
    assert products(jax.make_jaxpr(once(mlp, [INT8]))((MLP, ROWS))) == ([("int8", "int8")] * 6, 0)
    assert products(jax.make_jaxpr(both)(MLP, ROWS)) == ([], 6)


def test_without_a_key_only_the_backward_pass_is_an_error():
    q = qpass.transform(mlp, [Rule(weight="int8", act="int8", grad="int8 sr")])
    assert np.isfinite(q(MLP, ROWS))
    with pytest.raises(qpass.QuantizeError, match=r"with_key.*rounds stochastically"):
        jax.grad(q)(MLP, ROWS)


def test_gradients_rounded_at_random_are_right_on_average():
    rule = Rule(weight="int8", act="int8", grad="int4 sr")
    q = qpass.transform(weighted, [rule])
    draw = jax.jit(jax.vmap(lambda key: jax.grad(q.with_key(key))({"w": W}, X)["w"]))
    drawn = np.float64(draw(jax.random.split(KEY, 400)))
    wanted = back(X, "int8", 0).T @ np.float64(G)
    spread = drawn.std(0)
    assert (spread > 0).all()
    assert np.abs(drawn.mean(0) - wanted).max() < 6 * spread.max() / 20


STATIC = Rule(weight="int8", act="int8 static", grad="int8 static")


def test_ranges_captured_inside_serve_outside():
    step = qpass.transform(jax.grad(mlp), [STATIC])
    ranges = qpass.ranges(step.capture(MLP, ROWS))
    down = "down/dot_general.0"
    assert {down, f"{down}:dlhs.grad", f"{down}:drhs.grad"} < set(ranges)
    ranges[f"{down}:drhs.grad"] = (-0.004, 0.004)
    q = qpass.transform(mlp, [STATIC]).with_ranges(ranges)
    got = jax.jit(jax.grad(q))(MLP, ROWS)
    assert_equal(got, jax.jit(step.with_ranges(ranges))(MLP, ROWS))
    g = jax.grad(lambda y: y.var())(jnp.tanh(ROWS @ MLP["up"]) @ MLP["down"])
    assert float(jnp.abs(g).max()) > 0.004  # so that the range, which is not its own, counts
    clipped = q.with_ranges(ranges | {f"{down}:drhs.grad": (-1.0, 1.0)})
    assert not np.array_equal(jax.grad(clipped)(MLP, ROWS)["down"], got["down"])


def test_each_operand_has_its_own_range():
    """``drhs`` reads the activation in the range of the forward product."""
    site = "w/dot_general.0"
    ranges = {site: (-1.0, 1.0), f"{site}:dlhs.grad": (-0.5, 0.5), f"{site}:drhs.grad": (-2.0, 2.0)}
    q = qpass.transform(weighted, [STATIC]).with_ranges(ranges)
    dp, dx = jax.jit(jax.grad(q, (0, 1)))({"w": W}, X)
    dlhs = back(G, "int8 tensor fixed,0.5", 1) @ back(W, "int8", 1).T
    drhs = back(X, "int8 tensor fixed,1", 0).T @ back(G, "int8 tensor fixed,2", 0)
    close((dx, dp["w"]), (dlhs, drhs))


def test_a_static_gradient_without_a_range_is_an_error_when_it_comes():
    ranges = {f"{name}/dot_general.0": (-1.0, 1.0) for name in MLP}
    q = qpass.transform(mlp, [STATIC]).with_ranges(ranges)
    assert np.isfinite(q(MLP, ROWS))
    with pytest.raises(qpass.CalibrationError, match=r"(dlhs|drhs).grad': \(lo, hi\)"):
        jax.grad(q)(MLP, ROWS)


def test_forward_mode_and_second_derivatives():
    q = qpass.transform(mlp, [INT8])
    straight = qpass.transform(mlp, [Rule(weight="int8", act="int8")])
    one, other = (jax.jvp(lambda x, f=f: f(MLP, x), (ROWS,), (ROWS,)) for f in (q, straight))
    np.testing.assert_allclose(one, other, rtol=1e-6)
    curve = jax.jvp(jax.grad(lambda x: q(MLP, x)), (ROWS,), (ROWS,))[1]
    exact = jax.jvp(jax.grad(lambda x: mlp(MLP, x)), (ROWS,), (ROWS,))[1]
    assert_near(curve, exact, 0.1)


def test_a_stored_weight_that_is_frozen():
    """Its codes are all that there is: they serve, or what they stand for is quantized again."""
    codes = qpass.transform(mlp, [KINDS["codes"]])
    stored = codes.quantize(MLP, ROWS)
    assert_equal(*(jax.jit(jax.grad(codes, 1))(p, ROWS) for p in (stored, MLP)))
    plain = qpass.transform(mlp, [INT8])
    assert_near(jax.grad(plain, 1)(stored, ROWS), jax.grad(mlp, 1)(MLP, ROWS), 0.05)
