"""The dtype of sums of products, by rule: against exact sums, rounded once by `ml_dtypes`."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import qpass
from qpass import Backward, Rule
from qpass.configs import rules_from_data, rules_to_data
from qpass.errors import RuleError
from tests.cache import programs

# Their codes are the integers themselves, so that a sum is exact before it is rounded.
WHOLE = "int8 tensor fixed,127"
RULE = Rule(weight=WHOLE, act=WHOLE, grad=WHOLE, accumulate="bfloat16")


def integers(*shape, seed):
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.float32)


X, W, G = integers(40, 24, seed=1), integers(24, 20, seed=2), integers(40, 20, seed=3)
EXPERTS, COUNTS = integers(2, 24, 20, seed=4), np.asarray([15, 20], np.int32)


def plain(p, x):
    return x @ p["w"]


def ragged(p, x):
    return lax.ragged_dot(x, p["w"], jnp.asarray(COUNTS))


def sums(fn):
    """The three products in float64: the result, the gradients of x and of the weight."""
    x, g = np.asarray(X, np.float64), np.asarray(G, np.float64)
    if fn is plain:
        return x @ W, g @ np.asarray(W, np.float64).T, x.T @ g
    owner = np.repeat([0, 1, -1], [15, 20, 5])[:, None, None]
    w = np.where(owner < 0, 0, np.asarray(EXPERTS, np.float64)[owner[:, 0, 0]])
    parts = [x[:15].T @ g[:15], x[15:35].T @ g[15:35]]
    return np.einsum("mk,mkn->mn", x, w), np.einsum("mn,mkn->mk", g, w), np.stack(parts)


def as_rounded(x, dtype="bfloat16"):
    return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype(np.float32)


def products(fn, rule, inside):
    """All three, the derivative taken outside of what is transformed or inside."""
    p = {"w": W if fn is plain else EXPERTS}

    def pulled(fn, p, x):
        out, pull = jax.vjp(fn, p, x)
        dp, dx = pull(jnp.asarray(G))
        return out, dx, dp["w"]

    if inside:
        return jax.jit(qpass.transform(lambda p, x: pulled(fn, p, x), rule))(p, X)
    q = qpass.transform(fn, rule)
    return jax.jit(lambda p, x: pulled(q, p, x))(p, X)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("fn", [plain, ragged])
def test_all_three_products_are_rounded_once(fn, inside):
    for got, exact in zip(products(fn, RULE, inside), sums(fn), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, as_rounded(exact))
        assert not np.array_equal(got, exact)


@pytest.mark.parametrize("inside", [False, True])
def test_each_product_may_have_its_own(inside):
    rule = Rule(
        weight=WHOLE,
        act=WHOLE,
        grad=WHOLE,
        dlhs=Backward(accumulate=jnp.bfloat16),
        drhs=Backward(accumulate="float32"),
        accumulate="float32",
    )
    kinds = ("float32", "bfloat16", "float32")
    for got, exact, kind in zip(products(plain, rule, inside), sums(plain), kinds, strict=True):
        np.testing.assert_array_equal(got, as_rounded(exact, kind))


def test_a_program_in_bfloat16_rounds_a_float32_sum_once():
    rule = Rule(weight=WHOLE, act=WHOLE, accumulate="float32")
    small = [(a / 8).round().clip(-15, 15) for a in (X, W)]  # as bfloat16 has them
    x, w = (jnp.asarray(a, jnp.bfloat16) for a in small)
    got = jax.jit(qpass.transform(plain, rule))({"w": w}, x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(got), as_rounded(np.float64(small[0]) @ small[1]))


def block(p, x):
    """Products of one activation, which could be one call, and a function after one of them."""
    return x @ p["gate"] * jax.nn.gelu(x @ p["up"] + p["bias"])


def test_stored_weights_give_the_same_whatever_is_fused():
    p = {"gate": W, "up": integers(24, 20, seed=5), "bias": jnp.ones(20)}
    q = qpass.transform(block, Rule(weight="int8", act="int8", accumulate="bfloat16"))
    stored = q.quantize(p, X)
    np.testing.assert_array_equal(jax.jit(q)(stored, X), jax.jit(q)(p, X))
    told = [note for row in q.plan(stored, X).rows for note in row.notes]
    assert not any("joined" in note or "then" in note for note in told)


def test_plans_say_it():
    step = qpass.value_and_grad(qpass.transform(lambda p, x: plain(p, x).sum(), RULE))
    rows = step.plan({"w": W}, X).rows
    assert {row.role for row in rows} == {"forward", "drhs"}
    assert all(row.scheme.endswith("sums in bfloat16") for row in rows)
    other = Rule(weight="int8", act="int8", dlhs=Backward("int8", accumulate="bfloat16"))
    assert str(other.dlhs) == "int8 sums in bfloat16"
    assert rules_from_data(rules_to_data([RULE, other])) == (RULE, other)


def test_convolutions_have_none():
    def convolved(p, x):
        return lax.conv(x, p["w"], (1, 1), "SAME")

    q = qpass.transform(convolved, Rule(weight="int8", accumulate="bfloat16"))
    with pytest.raises(RuleError, match="leave accumulate= out"):
        q.plan({"w": jnp.ones((4, 4, 3, 3))}, jnp.ones((1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weight": "int8", "accumulate": "int32"}, "float32, bfloat16 or float16; got 'int32'"),
        ({"weight": "int8", "accumulate": 32}, "got 32"),
        ({"weight": "int8", "accumulate": jnp.float64}, "Sums of integer codes are int32"),
        ({"accumulate": "float32"}, "Give a quantizer beside accumulate="),
        ({"keep": True, "accumulate": "float32"}, "Drop keep=True or accumulate="),
        ({"weight": "int8", "role": "lookup", "accumulate": "float32"}, "Drop accumulate="),
        ({"cache": "**", "store": "int8", "accumulate": "float32"}, "Drop accumulate="),
    ],
)
def test_nonsense(given, said):
    with pytest.raises(RuleError, match=said):
        Rule(**given)
    with pytest.raises(RuleError, match="accumulate= as float32"):
        Backward("int8", accumulate="int8")


def test_products_that_read_a_cache_have_none():
    """Plans say so, and results are those without."""
    cache = Rule(cache=programs.BOTH, store="int8")
    args = programs.params(), programs.inputs(1), programs.empty(), 0
    plain, summed = (
        qpass.transform(programs.step, [Rule(role="qk", act="int8", accumulate=kind), cache])
        for kind in (None, "bfloat16")
    )
    notes = [note for row in summed.plan(*args).rows for note in row.notes]
    assert sum("its sums not in bfloat16" in note for note in notes) == 1
    stored = plain.quantize_cache(*args)
    want, got = (q(*args[:2], stored, 0)[0] for q in (plain, summed))
    np.testing.assert_array_equal(got, want)
