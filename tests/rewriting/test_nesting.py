"""qpass of qpass, in any nesting: a site that is quantized already is never quantized twice."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import qpass
from tests.jaxprs import equations
from tests.rewriting.oracle import close, compiled, plain, quantized, random, total

P = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)
ALREADY = "quantized already, by a transformation inside this one"
INNER = qpass.Rule(path="a", weight="int8", act="int8")
OUTER = qpass.Rule(path="**", weight=qpass.int4.grouped(4))


def layers(p, x):
    return jnp.tanh(plain(jnp.tanh(plain(x, p["a"])), p["b"]))


inner = qpass.transform(layers, INNER)
separate = qpass.transform(layers, [INNER, qpass.Rule(path="b", weight=qpass.int4.grouped(4))])


def with_rule(g):
    """A ``custom_vjp`` whose gradient is twice the true one."""
    call = jax.custom_vjp(g)
    call.defvjp(lambda p, x: jax.vjp(g, p, x), lambda pull, ct: pull(2 * ct))
    return call


def with_jvp_rule(g):
    call = jax.custom_jvp(g)
    call.defjvp(lambda primals, dots: (g(*primals), 3 * jax.jvp(g, primals, dots)[1]))
    return call


def over_devices(g):
    spec = PartitionSpec("d")
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    return jax.shard_map(g, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec)


AROUND = {
    "nothing": lambda g: g,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "scan": lambda g: lambda p, x: lax.scan(lambda c, _: (g(p, c), None), x, None, length=2)[0],
    "vmap": lambda g: lambda p, x: jax.vmap(lambda row: g(p, row[None])[0])(x),
    "cond": lambda g: lambda p, x: lax.cond(x[0, 0] < 99, g, lambda p, x: x, p, x),
    "while": lambda g: (
        lambda p, x: lax.while_loop(lambda c: c[1] < 2, lambda c: (g(p, c[0]), c[1] + 1), (x, 0))[0]
    ),
    "shard_map": over_devices,
    "custom_vjp": with_rule,
    "custom_jvp": with_jvp_rule,
}


def check_once(outer):
    """The inner site is listed as done; only the other weight is quantized by the outer rules."""
    plan = outer.plan(P, X)
    assert {d.site.weight_path for d in plan.decisions if d.action} == {"b"}
    assert {row.reason for row in plan.rows if row.op == "quantized_matmul"} == {ALREADY}
    program = jax.make_jaxpr(outer)(P, X)
    products = [e for e in equations(program) if e.primitive.name == "quantized_matmul"]
    kinds = {tuple(v.aval.dtype.name for v in e.invars[:2]) for e in products}
    assert kinds == {("int8", "int8"), ("float32", "int4")}
    stored = outer.quantize(P, X)
    assert not isinstance(stored["a"], qpass.QTensor)
    return stored


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_transformed_function_inside(around):
    outer = qpass.transform(around(inner), OUTER)
    check_once(outer)
    close(compiled(outer)(P, X), compiled(around(separate))(P, X), 1e-5)


@pytest.mark.parametrize("name", ["nothing", "remat", "vmap"])
def test_gradients_inside(name):
    """`transform(jit(grad(f)))`, where ``f`` calls a transformed function."""

    def slope(g):
        return jax.jit(jax.grad(lambda p, x: total(AROUND[name](g)(p, x)), 1))

    outer = qpass.transform(slope(inner), OUTER)
    stored = check_once(outer)
    # The weight that the backward product reads stays float, and is quantized on every call.
    assert not isinstance(stored["b"], qpass.QTensor)
    got, wanted = compiled(outer)(P, X), compiled(slope(separate))(P, X)
    assert jnp.abs(got - wanted).max() < 0.1 * jnp.abs(wanted).max()
    assert jnp.abs(got - slope(layers)(P, X)).max() > 1e-4


def test_no_rule_reaches_a_finished_site():
    rules = qpass.Rule(role="*", weight="int8", act="int8")
    once = qpass.transform(layers, rules)
    twice = qpass.transform(jax.checkpoint(once), rules, strict=False)
    with pytest.warns(UserWarning, match="rule 0"):
        close(twice(P, X), once(P, X))
    assert not any(d.action for d in twice.plan(P, X).decisions)


def test_a_call_beside_float_products():
    part = qpass.transform(lambda p, x: plain(x, p["a"]), INNER)
    outer = qpass.transform(lambda p, x: plain(part(p, x), p["b"]) + plain(x, p["a"]), OUTER)
    rounded = qpass.transform(lambda p, x: plain(x, p["w"]), OUTER)
    half = quantized(X, P["a"])
    close(outer(P, X), rounded({"w": P["b"]}, half) + rounded({"w": P["a"]}, X), 1e-5)
    notes = [note for d in outer.plan(P, X).decisions for note in d.notes]
    assert any("quantized on every call" in note for note in notes)


def test_stored_weights_closed_over():
    part = qpass.transform(lambda p, x: plain(x, p["a"]), INNER)
    stored = part.quantize(P, X)
    outer = qpass.transform(
        lambda p, x: plain(part(stored, x), p["b"]), qpass.Rule(path="b", weight="int8", act="int8")
    )
    close(outer(P, X), quantized(quantized(X, P["a"]), P["b"]))


def test_where_shardings_are_types():
    """No kernel runs there but JAX's own product of codes: a scope says that it is finished."""
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    rows = PartitionSpec("x", None)

    def f(p, x):
        return jnp.einsum("td,df->tf", x, p["a"], out_sharding=rows)

    rules = [qpass.Rule(role="*", weight="int8", act="int8")]
    with jax.set_mesh(mesh):
        p = {"a": jax.device_put(P["a"], PartitionSpec(None, "y"))}
        x = jax.device_put(X, rows)
        twice = qpass.transform(qpass.transform(f, rules), rules, strict=False)
        with pytest.warns(UserWarning, match="rule 0"):
            close(jax.device_get(twice(p, x)), jax.device_get(quantized(X, P["a"])))
        listed = twice.plan(p, x).rows
    assert {row.reason for row in listed if row.role == "opaque"} == {ALREADY}
    assert {row.role for row in listed} == {"opaque", "tangent"}
