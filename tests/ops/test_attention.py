"""Quantized products of attention beside float64: each operand with its own quantizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.errors import RuleError
from tests.helpers import text
from tests.jaxprs import count
from tests.numerics.oracle import codes, scales, spread

B, T, S, KV, G, H = 2, 5, 16, 2, 3, 8


def attend(p, q, k, v):
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k) * p["scale"]
    scores = jnp.where(jnp.arange(S) <= jnp.arange(T)[:, None] + 8, scores, -1e30)
    return jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores), v)


PARAMS = {"scale": jnp.float32(H**-0.5)}


def operands(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = (B, T, KV, G, H), (B, S, KV, H), (B, S, KV, H)
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def rounded(x, axis):
    """The values of int8 codes with a scale for each row along ``axis``, in float64."""
    x = np.moveaxis(np.asarray(x, np.float32), axis, -1)
    blocks = (*[1] * (x.ndim - 1), x.shape[-1])
    scale = scales(x, blocks, "int8")
    found = codes(x, scale, blocks, "int8").astype(np.float64)
    return np.moveaxis(found * spread(scale, x.shape, blocks), -1, axis)


def kept(x, axis):
    return np.asarray(x, np.float64)


def smoothed(x, axis):
    mean = np.asarray(jnp.mean(x, 1, keepdims=True))
    return rounded(np.asarray(x) - mean, axis) + np.float64(mean)


def softmax64(q, k):
    scores = np.einsum("btkgh,bskh->bkgts", q, k) * np.float64(PARAMS["scale"])
    scores = np.where(np.arange(S) <= np.arange(T)[:, None] + 8, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def expected(arrays, q=kept, k=kept, p=kept, v=kept):
    weights = p(softmax64(q(arrays[0], -1), k(arrays[1], -1)), -1)
    return np.einsum("bkgts,bskh->btkgh", weights, v(arrays[2], 1))


QK, PV = "qk", "pv"
SCHEMES = {
    "both of qk": ([qpass.Rule(role=QK, act="int8")], {"q": rounded, "k": rounded}),
    "keys": ([qpass.Rule(role=QK, kv="int8")], {"k": rounded}),
    "smooth keys": ([qpass.Rule(role=QK, kv="int8", smooth=True)], {"k": smoothed}),
    "smooth qk": (
        [qpass.Rule(role=QK, act="int8", kv="int8", smooth=True)],
        {"q": rounded, "k": smoothed},
    ),
    "both of pv": ([qpass.Rule(role=PV, act="int8")], {"p": rounded, "v": rounded}),
    "values": ([qpass.Rule(role=PV, kv="int8")], {"v": rounded}),
    "all": (
        [qpass.Rule(role="activations", act="int8")],
        dict.fromkeys("qkpv", rounded),
    ),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_each_operand_is_quantized_as_its_rule_says(name):
    """Softmax itself is float: what it is given differs from float64's by roundings of float32.

    A probability that these turn to another code moves the result by a hundredth of a step.
    """
    rules, how = SCHEMES[name]
    arrays = operands()
    got = jax.jit(qpass.transform(attend, rules))(PARAMS, *arrays)
    np.testing.assert_allclose(
        got, expected(arrays, **how), rtol=0, atol=2e-5 if "p" not in how else 2e-3
    )
    assert np.abs(got - expected(arrays)).max() > 1e-3  # not float


def test_off_without_a_rule_for_it():
    q = qpass.transform(attend, qpass.Rule(weight="int8", act="int8"), strict=False)
    with pytest.warns(UserWarning, match="there are: qk"):
        plan = q.plan(PARAMS, *operands())
    assert [d.reason for d in plan.decisions] == [
        "scores of attention: only a rule with role='qk' takes it",
        "values of attention: only a rule with role='pv' takes it",
    ]


def test_the_plan_says_what_is_done():
    rules = [
        qpass.Rule(role="qk", act="int8", kv="int8 tensor", smooth=True),
        qpass.Rule(role="pv", kv="int4 g8"),
    ]
    rows = qpass.transform(attend, rules).plan(PARAMS, *operands()).rows
    assert [(row.role, row.scheme) for row in rows] == [
        ("qk", "int8 tensor x int8, smooth"),
        ("pv", "int4 g8 values-only"),
    ]


def test_smooth_keys_lose_nothing_to_what_they_have_in_common():
    q, k, v = operands()
    k = k + 50 * jax.random.normal(jax.random.key(9), (1, 1, KV, H))
    exact = expected([q, k, v])

    def error(smooth):
        rule = qpass.Rule(role="qk", act="int8", kv="int8", smooth=smooth)
        got = jax.jit(qpass.transform(attend, rule))(PARAMS, q, k, v)
        return np.abs(got - exact).mean() / np.abs(exact).mean()

    assert error(True) < 0.4 * error(False)


RULES = [qpass.Rule(role="qk", act="int8", smooth=True), qpass.Rule(role="pv", act="int8")]


def test_gradients_go_straight_through():
    """Those of the float function at the values that the products see."""
    arrays = operands()
    rule = qpass.Rule(role="qk", kv="int8", smooth=True)
    got = jax.grad(lambda *a: (qpass.transform(attend, rule)(PARAMS, *a) ** 2).sum(), (0, 1, 2))
    seen = [arrays[0], jnp.asarray(smoothed(arrays[1], -1), jnp.float32), arrays[2]]
    want = jax.grad(lambda *a: (attend(PARAMS, *a) ** 2).sum(), (0, 1, 2))
    for one, other in zip(jax.jit(got)(*arrays), jax.jit(want)(*seen), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())


def test_under_vmap_scan_and_export():
    arrays = operands()
    q = qpass.transform(attend, RULES)
    one = jax.jit(q)(PARAMS, *arrays)
    stacked = [jnp.stack([x, x * 0.5]) for x in arrays]
    mapped = jax.jit(jax.vmap(lambda *a: q(PARAMS, *a)))(*stacked)
    np.testing.assert_allclose(mapped[0], one, atol=1e-6)

    def scanned(p, *a):
        return jax.lax.scan(lambda c, xs: (c, attend(p, *xs)), 0, a)[1]

    looped = jax.jit(qpass.transform(scanned, RULES))(PARAMS, *stacked)
    np.testing.assert_allclose(looped, mapped, atol=1e-6)
    exported = jax.export.export(jax.jit(q))(PARAMS, *arrays)
    np.testing.assert_allclose(exported.call(PARAMS, *arrays), one, atol=1e-6)


def small(p, q, k, v):
    return jax.nn.softmax(q @ k.T) @ v


def test_the_program_before_and_after():
    arrays = [jnp.ones((n, 4)) for n in (3, 5, 5)]
    q = qpass.transform(small, qpass.Rule(role="qk", act="int8", kv="int8", smooth=True))
    before, after = text(small, ({}, *arrays)), text(q, ({}, *arrays))
    assert before.count("dot_general") == 2
    assert "quantized_dot" not in before
    assert after.count("quantized_dot ") == 1
    assert count(jax.make_jaxpr(q)({}, *arrays), "dot_general") == 2  # of the mean; with values


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kv": "int8"}, "Give role='qk' or role='pv' beside kv="),
        ({"role": "activations", "kv": "int8"}, "Give role='qk' or role='pv' beside kv="),
        ({"role": "qk", "weight": "int8"}, "Give act= alone"),
        ({"role": "pv", "kv": "int8", "smooth": True}, "Give role='qk' beside smooth="),
        ({"role": "qk", "act": "int8 static", "smooth": True}, "without static"),
        ({"role": "qk", "smooth": True, "keep": True}, "Give kv= or act="),
        ({"role": "qk", "act": "int8", "grad": "int8", "smooth": True}, "Drop smooth= or grad="),
        ({"role": "qk", "act": "int8", "smooth": 1}, "Give smooth=True or leave it out"),
        ({"role": "qk", "act": "int8 g32", "kv": "int8 g48"}, "Give kv= and act= the same group"),
        ({"role": "kv", "act": "int8"}, "known: .forward., .qk., .pv."),
    ],
)
def test_rules_that_contradict_themselves(fields, words):
    with pytest.raises(RuleError, match=words):
        qpass.Rule(**fields)


def test_ranges_of_their_own_that_were_captured():
    """Each operand of each product has a name; keys keep a range apart from that of queries."""
    arrays = operands()
    rule = qpass.Rule(role="qk", act="int8 static", kv="int8 static")
    q = qpass.transform(attend, rule)
    stats = q.capture(PARAMS, *arrays)
    assert sorted(name.rpartition(":")[2] for name in stats) == ["lhs", "rhs"]
    got = q.with_ranges(qpass.ranges(stats))(PARAMS, *arrays)
    exact = expected(arrays)
    assert 0 < np.abs(got - exact).mean() < 0.02 * np.abs(exact).mean()
