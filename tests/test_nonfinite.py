"""`nonfinite`: where NaN and infinities enter, told from what was put in by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.ops.test_values import sample
from tests.programs import rules

INT8 = rules("int8", "int8")


def places(found):
    return [(one.where, one.value, one.nan, one.inf) for one in found.found]


def matmul(p, x):
    return x @ p["w"]


def test_all_is_finite():
    found = qpass.transform(matmul, INT8).nonfinite({"w": sample(8, 4)}, sample(2, 8))
    assert found.found == ()
    assert found.first is None
    assert found.looked_at == 1
    assert str(found) == "all values finite, 1 product ran"


@pytest.mark.parametrize("keep", [False, True])
def test_an_activation_with_both(keep):
    """NaN becomes code 0 in int8, and infinities saturate: the product itself shows nothing."""
    x = jnp.asarray(sample(3, 8)).at[0, 1].set(jnp.nan).at[1, 2:4].set(-jnp.inf)
    given = [qpass.Rule(keep=True)] if keep else INT8
    q = qpass.transform(matmul, given)
    found = q.nonfinite({"w": sample(8, 4)}, x)
    site = "w/dot_general.0"
    ends = [("x", "argument", 1, 2), (site, "lhs", 1, 2)]
    if keep:
        in_float = np.asarray(x @ sample(8, 4))
        count = int(np.isnan(in_float).sum()), int(np.isinf(in_float).sum())
        assert sum(count) == 8, "two rows of four"
        ends += [(site, "product", *count), ("0", "result", *count)]
    assert places(found) == ends
    assert found.found[1].source.startswith("test_nonfinite.py")


def test_a_product_that_overflows_is_where_they_enter():
    p, x = {"w": jnp.full((8, 4), 6e4, jnp.float16)}, jnp.full((2, 8), 2.0, jnp.float16)
    found = qpass.transform(matmul, rules("int8")).nonfinite(p, x)
    assert found.first.value == "product"
    assert found.first.inf == 8
    assert [one.value for one in found.found] == ["product", "result"]


def test_a_weight_float_or_stored():
    """Float ones are counted before they are quantized, stored ones as what they stand for."""
    w = jnp.asarray(sample(8, 4)).at[3, 2].set(jnp.nan)
    q, x = qpass.transform(matmul, INT8), sample(2, 8)
    found = q.nonfinite({"w": w}, x)
    assert [one[:3] for one in places(found)][:2] == [
        ("w", "argument", 1),
        ("w/dot_general.0", "rhs", 1),
    ]
    stored = q.quantize({"w": sample(8, 4)}, x)
    assert q.nonfinite(stored, x).found == ()


def test_between_two_products():
    p = {"a": -jnp.eye(4), "b": jnp.eye(4)}
    x = jnp.ones((1, 4))

    def bare(p, x):
        return jnp.log(x @ p["a"]) @ p["b"]  # NaN where negative

    found = qpass.transform(bare, INT8).nonfinite(p, x)
    assert places(found)[0] == ("b/dot_general.0", "lhs", 4, 0)


def test_layers_inside_scans_are_told_apart_and_sorted_by_time():
    """In layer 2, b's operand is NaN first; a sees it one layer later, though it comes first."""

    def layer(h, p):
        h = jnp.tanh(h @ p["a"])
        h = jnp.where(p["poison"], jnp.nan, h)
        return h @ p["b"], None

    def fn(p, x):
        return jax.lax.scan(layer, x, p)[0]

    p = {"a": sample(4, 4, 4), "b": sample(4, 4, 4), "poison": jnp.arange(4) == 1}
    weight_only = [qpass.Rule(path="a", weight="int8"), qpass.Rule(path="b", keep=True)]
    found = qpass.transform(fn, weight_only).nonfinite(p, sample(2, 4))
    assert [(one.where, one.value, one.iterations) for one in found.found] == [
        ("b/dot_general.0", "lhs", ((1,), (2,), (3,))),
        ("b/dot_general.0", "product", ((1,), (2,), (3,))),
        ("a/dot_general.0", "lhs", ((2,), (3,))),
        ("a/dot_general.0", "product", ((2,), (3,))),
        ("0", "result", ()),
    ]
    assert found.first.nan == 3 * 8
    assert "1, 2, 3" in str(found)


def test_nested_programs_and_what_did_not_run():
    def fn(p, x):
        h = jax.checkpoint(lambda h: jnp.sin(h @ p["a"]))(x)
        h = jax.lax.cond(h[0, 0] > 9, lambda h: h @ p["b"], lambda h: h @ p["c"], h)
        again, twice = (lambda c: c[0] < 2), (lambda c: (c[0] + 1, (c[1] @ p["d"]) * jnp.inf))
        return jax.lax.while_loop(again, twice, (0, h))[1]

    p = {name: jnp.asarray(sample(4, 4, seed=k)) for k, name in enumerate("abcd")}
    found = qpass.transform(fn, INT8).nonfinite(p, sample(2, 4))
    assert found.unseen == ("b/dot_general.0",)
    assert found.looked_at == 3
    assert found.first.where == "d/dot_general.0"
    assert found.first.inf + found.first.nan == 8
    assert found.first.iterations == ()


def test_a_training_step():
    """Backward products of a function that differentiates itself are looked at, too."""

    @jax.custom_vjp
    def scaled(x):
        return x

    scaled.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.inf,))

    def step(p, x):
        return jax.grad(lambda p: (scaled(x @ p["w"]) @ p["v"]).sum())(p)

    p = {"w": jnp.asarray(sample(4, 4)), "v": jnp.asarray(sample(4, 4, seed=1))}
    q = qpass.transform(step, [qpass.Rule(weight="int8")])
    found = q.nonfinite(p, sample(2, 4))
    roles = {d.site.id: d.site.role for d in q.plan(p, sample(2, 4)).decisions}
    assert roles[found.first.where] == "drhs"
    assert (found.first.value, found.first.inf) == ("lhs", 8)


def test_of_jitted_functions_and_model_objects():
    x = jnp.full((2, 8), jnp.inf)
    q = qpass.jit(matmul, rules=INT8)
    assert q.nonfinite({"w": sample(8, 4)}, x).first.inf == 16
    module = jax.tree_util.Partial(matmul, {"w": jnp.asarray(sample(8, 4))})
    assert qpass.transform(module, INT8).nonfinite(x).first.inf == 16
