"""A whole training step, forward and backward, is transformed as one program."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import qpass
from qpass.numerics import as_quantizer, quantize
from tests.jaxprs import count, equations
from tests.rewriting.oracle import INT8, close, compiled, plain, quantized, random

P = {"w": random(2, 8, 8, seed=1), "v": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def layers(dot, p, x):
    x = jax.checkpoint(lambda x: jnp.tanh(dot(x, p["v"])))(x)
    return lax.scan(jax.checkpoint(lambda c, w: (jnp.sin(dot(c, w)), None)), x, p["w"])[0]


def step(p, x):
    slope = jax.grad(lambda p: (layers(plain, p, x) ** 2).mean())(p)
    return jax.tree.map(lambda w, g: w - 0.1 * g, p, slope)


def test_only_forward_products_are_quantized_and_the_rest_is_listed():
    q = qpass.transform(step, INT8)
    roles = {(d.site.role, d.action is not None) for d in q.plan(P, X).decisions}
    assert roles == {("forward", True), ("dlhs", False), ("drhs", False)}


def test_the_recomputed_forward_product_is_a_forward_product():
    sites = [d.site for d in qpass.transform(step, INT8).plan(P, X).decisions]
    # Each of two layers: once forward, once again in the rematerialized backward program.
    assert sum(site.role == "forward" for site in sites) == 4


def test_the_differentiated_mark_stays():
    q = qpass.transform(step, INT8)
    marks = []
    for program in (jax.make_jaxpr(step)(P, X), jax.make_jaxpr(q)(P, X)):
        remats = [e for e in equations(program) if e.primitive.name in ("remat2", "checkpoint")]
        marks.append([e.params["differentiated"] for e in remats])
    assert marks[0] == marks[1] == [True, True]


def barriers(fn):
    """Barriers of rematerialization, each of three values; those of qpass have fewer."""
    return jax.jit(fn).lower(P, X).as_text().count(":3 = stablehlo.optimization_barrier")


def test_xla_is_still_kept_from_undoing_the_rematerialization():
    q = qpass.transform(step, INT8)
    assert barriers(step) == barriers(q) == 2
    assert count(jax.make_jaxpr(q)(P, X), "quantized_matmul") == 4


def test_values():
    """The step with hand-written quantized forward products; backward on what the plan stores."""

    def forward(p, x):
        return (layers(quantized, p, x) ** 2).mean()

    q = qpass.transform(lambda p, x: jax.grad(lambda p: (layers(plain, p, x) ** 2).mean())(p), INT8)
    got = compiled(q)(P, X)
    wanted = compiled(jax.grad(forward))(P, X)
    # Weight gradients use the activation as it is here, and as quantized there.
    for name in P:
        difference = jnp.abs(got[name] - wanted[name]).max() / jnp.abs(wanted[name]).max()
        assert difference < 0.02


def test_a_rule_that_names_the_backward_products_quantizes_them():
    """Against the backward pass written out by hand, each product with its own scales."""

    def slope(p, x):
        return jax.grad(lambda p: (plain(jnp.tanh(plain(x, p["v"])), p["w"][0]) ** 2).sum())(p)

    rules = [
        qpass.Rule(role=("dlhs", "drhs"), weight="int8", act="int8", grad="int8"),
        qpass.Rule(path="**", keep=True),
    ]
    q = qpass.transform(slope, rules)
    h = jnp.tanh(plain(X, P["v"]))
    g = 2 * plain(h, P["w"][0])
    dh = quantized(g, P["w"][0].T) * (1 - h * h)
    wanted = {"w": jnp.zeros_like(P["w"]).at[0].set(quantized(h.T, g)), "v": quantized(X.T, dh)}
    close(compiled(q)(P, X), wanted)
    assert {d.site.role for d in q.plan(P, X).decisions if d.action} == {"dlhs", "drhs"}


def test_weight_activation_and_gradient_have_granularities_of_their_own():
    def slope(p, x):
        return jax.grad(lambda x: jnp.sin(plain(x, p["v"])).sum())(x)

    def back(x, text, axis):
        return np.float64(quantize(jnp.asarray(x), as_quantizer(text), (axis,)).dequantize())

    rules = [
        qpass.Rule(role="dlhs", weight="int8 tensor", grad="int8 g4"),
        qpass.Rule(weight="int8 g2", act="int8 axis0"),
    ]
    got = compiled(qpass.transform(slope, rules))(P, X)
    y = back(X, "int8 axis0", 1) @ back(P["v"], "int8 g2", 0)
    g = back(np.float32(np.cos(y)), "int8 g4", 1)
    np.testing.assert_allclose(got, g @ back(P["v"], "int8 tensor", 1).T, rtol=0, atol=1e-5)


def test_the_backward_rule_of_a_stored_weight_quantizes_it_afresh():
    """The forward product reads the stored codes; the backward one contracts the other axis."""
    call = jax.custom_vjp(plain)
    call.defvjp(
        lambda x, w: (plain(x, w), (x, w)), lambda r, g: (plain(g, r[1].T), plain(r[0].T, g))
    )
    rules = [qpass.Rule(role="dlhs", weight="int8", act="int8"), INT8]
    q = qpass.transform(lambda p, x: jnp.sin(call(x, p["v"])), rules)
    stored = q.quantize(P, X)
    assert isinstance(stored["v"], qpass.QTensor)
    y, pull = jax.vjp(lambda x: q(stored, x), X)
    seen = stored["v"].dequantize()
    close(y, jnp.sin(quantized(X, seen)))
    wanted = quantized(jnp.cos(quantized(X, seen)), seen.T)
    close(pull(jnp.ones_like(y))[0], wanted)


def test_backward_products_read_the_float_weight_that_the_step_updates():
    def slope(p, x):
        return jax.grad(lambda x: plain(x, p["v"]).sum())(x) + plain(x, p["v"])

    q = qpass.transform(slope, INT8)
    close(q(P, X), plain(jnp.ones((4, 8)), P["v"].T) + quantized(X, P["v"]))
    notes = [note for d in q.plan(P, X).decisions for note in d.notes]
    assert any("quantized on every call: it is also read by" in note for note in notes)


def test_qpass_jit_of_a_step_with_donation():
    train = qpass.jit(step, rules=INT8, donate_argnums=0)
    params = jax.tree.map(jnp.copy, P)
    new = train(params, X)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert jax.tree.structure(new) == jax.tree.structure(P)
