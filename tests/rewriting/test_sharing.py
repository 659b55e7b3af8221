"""One jaxpr object at several call sites, each with its own decision."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.rewriting.oracle import close, compiled, plain, quantized, random, total

P = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2), "s": random(2, 8, 8, seed=3)}
X = random(4, 8, seed=4)
T = {"weight": "int8", "act": "int8"}


def model(dots):
    """Two calls of one jitted, one rematerialized, one scanned and one custom helper."""
    helpers = {name: _helpers(dot) for name, dot in dots.items()}

    def f(p, x):
        for name in ("a", "b"):
            jitted, remat, scanned, custom = helpers[name]
            x = jitted(x, p[name])
            x = remat(x, p[name])
            x = lax.scan(scanned, x, p[name][None])[0]
            x = custom(x, p[name])
        return x

    return f


def _helpers(dot):
    if dot not in _MADE:
        custom = jax.custom_vjp(lambda x, w: jnp.tanh(dot(x, w)))
        custom.defvjp(
            lambda x, w: (jnp.tanh(dot(x, w)), None), lambda _, g: (2 * g, jnp.ones((8, 8)))
        )
        _MADE[dot] = (
            jax.jit(lambda x, w: jnp.tanh(dot(x, w))),
            jax.checkpoint(lambda x, w: jnp.sin(dot(x, w))),
            lambda c, w: (jnp.tanh(dot(c, w)), None),
            custom,
        )
    return _MADE[dot]


_MADE: dict = {}


def test_the_call_sites_really_share_their_jaxprs():
    program = jax.make_jaxpr(model({"a": plain, "b": plain}))(P, X)
    for primitive in ("jit", "remat2", "scan"):
        first, second = (e.params["jaxpr"] for e in program.eqns if e.primitive.name == primitive)
        assert first is second


@pytest.mark.parametrize("chosen", ["a", "b"])
def test_only_the_chosen_call_sites_are_quantized(chosen):
    dots = {name: quantized if name == chosen else plain for name in "ab"}
    q = qpass.transform(model({"a": plain, "b": plain}), qpass.Rule(path=chosen, **T))
    wanted = model(dots)
    close(compiled(q)(P, X), compiled(wanted)(P, X))
    slope = jax.grad(lambda p, x: total(wanted(p, x)), (0, 1))
    close(compiled(jax.grad(lambda p, x: total(q(p, x)), (0, 1)))(P, X), compiled(slope)(P, X))
    assert {d.site.weight_path for d in q.plan(P, X).decisions if d.action} == {chosen}


def test_two_schemes_for_one_shared_jaxpr():
    rules = [qpass.Rule(path="a", **T), qpass.Rule(path="b", weight="int4")]
    helper = jax.jit(lambda x, w: jnp.tanh(plain(x, w)))
    q = qpass.transform(lambda p, x: (helper(x, p["a"]), helper(x, p["b"])), rules)
    one, other = q(P, X)
    close(one, jnp.tanh(quantized(X, P["a"])))
    close(other, jnp.tanh(plain(X, q.quantize(P, X)["b"].dequantize())))


def test_a_policy_applies_where_it_was_given():
    helper = jax.jit(lambda x, w: jnp.sin(plain(x, w)))
    saving = jax.checkpoint(helper, policy=jax.checkpoint_policies.dots_saveable)
    forgetting = jax.checkpoint(helper)
    q = qpass.transform(
        lambda p, x: saving(forgetting(x, p["a"]), p["b"]), qpass.Rule(path="**", **T)
    )
    text = str(jax.make_jaxpr(jax.grad(lambda p, x: q(p, x).sum()))(P, X))
    assert text.count("quantized_matmul[") == 3


def test_one_weight_at_two_call_sites_with_different_decisions():
    """The leaf stays float, so that only the decision tells the two calls apart."""
    helper = jax.jit(lambda x, w: jnp.tanh(plain(x, w)))

    def f(p, x):
        with jax.named_scope("first"):
            x = helper(x, p["a"])
        with jax.named_scope("second"):
            return helper(x, p["a"])

    for chosen in ("first", "second"):
        q = qpass.transform(f, qpass.Rule(scope=chosen, **T))
        wanted = X
        for scope in ("first", "second"):
            wanted = jnp.tanh((quantized if scope == chosen else plain)(wanted, P["a"]))
        close(q(P, X), wanted)
        close(compiled(q)(P, X), wanted)
    both = qpass.transform(
        f, [qpass.Rule(scope="first", **T), qpass.Rule(scope="second", weight="int4")]
    )
    only = qpass.transform(lambda w, x: jnp.tanh(plain(x, w)), qpass.Rule(weight="int4"))
    close(both(P, X), only(P["a"], jnp.tanh(quantized(X, P["a"]))))
