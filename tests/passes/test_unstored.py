"""Weights that are quantized on every call: what the plan says of it, and that its advice helps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import normal

RNG = np.random.default_rng(0)
P = {"w": normal(RNG, (64, 64))}
X = normal(RNG, (2, 64))


def both_ways(p, x):
    with jax.named_scope("encode"):
        h = jnp.tanh(x @ p["w"])
    with jax.named_scope("decode"):
        return h @ p["w"].T


def both_ways_with_a_copy(p, x):
    with jax.named_scope("encode"):
        h = jnp.tanh(x @ p["w"])
    with jax.named_scope("decode"):
        return h @ p["copy"].T


def made(fn, *rules, params=P):
    """The plan, and which leaves are stored; what is stored gives the bits of what is not."""
    q = qpass.transform(fn, list(rules))
    stored = q.quantize(params, X)
    np.testing.assert_array_equal(jax.jit(q)(stored, X), jax.jit(q)(params, X))
    wanted = fn(params, X)
    assert np.linalg.norm(q(stored, X) - wanted) < 0.1 * np.linalg.norm(wanted)
    kinds = {k for k, leaf in stored.items() if isinstance(leaf, qpass.QTensor)}
    return q.plan(params, X), kinds


CONTRADICTIONS = {
    "axes": (
        [qpass.Rule(weight="int8")],
        "encode/dot_general.0 wants int8 along axes (0,), "
        "decode/dot_general.0 wants int8 along axes (1,)",
        "Give both weight='int8 tensor', whose one scale serves every axis",
    ),
    "types": (
        [qpass.Rule(scope="encode", weight="int8"), qpass.Rule(weight="fp8_e4m3")],
        "decode/dot_general.0 wants fp8_e4m3",
        "Give both the same weight= in the rules",
    ),
    "a product that a rule keeps": (
        [qpass.Rule(scope="encode", keep=True), qpass.Rule(weight="int8")],
        "it is also read by encode/dot_general.0, which stays float (kept float by rule 0)",
        "Quantize encode/dot_general.0 with weight='int8' too",
    ),
    "a product that no rule fits": (
        [qpass.Rule(scope="decode", weight="int8")],
        "it is also read by encode/dot_general.0, which stays float (no rule fits)",
        "Quantize encode/dot_general.0 with weight='int8' too",
    ),
}


@pytest.mark.parametrize(("rules", "why", "advice"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_the_plan_says(rules, why, advice):
    plan, stored = made(both_ways, *rules)
    assert stored == set()
    (finding,) = plan.findings
    assert finding.startswith("'w' stays float (16.4 kB, stored 4.35 kB), quantized on every call")
    assert why in finding
    assert advice in finding
    assert "pass one of them a copy of the leaf" in finding
    for row in plan.rows:
        if row.quantized:
            (note,) = row.notes
            assert note.startswith("weight stays float (16.4 kB, stored 4.35 kB)")
            assert why in note
    assert finding in plan.to_json()
    assert "Give both" in str(plan) or "Quantize encode" in str(plan)


def test_the_size_said_is_the_size_that_storing_gives():
    p = {"w": P["w"], "copy": P["w"]}
    plan, stored = made(both_ways_with_a_copy, qpass.Rule(weight="int8"), params=p)
    assert stored == {"w", "copy"}
    assert plan.findings == ()
    assert [row.bytes_after for row in plan.rows] == [64 * 64 + 4 * 64] * 2  # 4.35 kB each


@pytest.mark.parametrize("act", [None, "int8"])
def test_advice_one_scale_serves_every_axis(act):
    plan, stored = made(both_ways, qpass.Rule(weight="int8 tensor", act=act))
    assert stored == {"w"}
    assert plan.findings == ()
    assert all(row.bytes_after == 64 * 64 + 4 for row in plan.rows)


@pytest.mark.parametrize("keep", [True, False])
def test_advice_one_type_for_both(keep):
    """Two rules that agree, where they contradicted each other or one kept."""
    both = [qpass.Rule(scope="encode", weight="int8 tensor"), qpass.Rule(weight="int8 tensor")]
    assert made(both_ways, *both)[1] == {"w"}
    same_axes = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]  # noqa: E731
    rule = qpass.Rule(where=lambda site: site.id.endswith(".0"), weight="int8", keep=False)
    other = qpass.Rule(keep=True) if keep else qpass.Rule(weight="fp8_e4m3")
    assert made(same_axes, rule, other)[1] == set()
    assert made(same_axes, rule, qpass.Rule(weight="int8"))[1] == {"w"}


def test_stacked_layers_read_both_ways_have_a_scale_each():
    def fn(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w) @ w.T, None), x, p["w"])[0]

    params = {"w": normal(RNG, (3, 64, 64)) * jnp.array([1.0, 4.0, 0.25])[:, None, None] / 16}
    plan, stored = made(fn, qpass.Rule(weight="int8 tensor"), params=params)
    assert stored == {"w"}
    assert plan.rows[0].bytes_after == 3 * (64 * 64 + 4)


def part(p, x):
    cut = jnp.einsum("mgk,gkn->mgn", x.reshape(2, 4, 16), p["w"].reshape(4, 16, 64))
    return cut.sum(1)


def test_advice_for_a_part_of_an_axis():
    plan, stored = made(part, qpass.Rule(weight="int8"))
    (finding,) = plan.findings
    assert "contracts only a part of axis 0. weight='int8 tensor' has one scale" in finding
    assert finding.startswith("'w' stays float (16.4 kB), quantized on every call")
    assert stored == set()
    plan, stored = made(part, qpass.Rule(weight="int8 tensor"))
    assert (plan.findings, stored) == ((), {"w"})


def test_another_reader():
    plan, stored = made(lambda p, x: x @ p["w"] + p["w"].sum(), qpass.Rule(weight="int8"))
    assert stored == set()
    (finding,) = plan.findings
    assert "it is also read by reduce_sum at test_unstored.py:" in finding
    assert "pass it a copy of the leaf" in finding
    params = {"w": P["w"], "copy": P["w"]}
    fn = lambda p, x: x @ p["w"] + p["copy"].sum()  # noqa: E731
    assert made(fn, qpass.Rule(weight="int8"), params=params)[1] == {"w"}


def test_leaves_that_the_same_would_help_share_a_finding():
    def fn(p, x):
        for w in p:
            x = jnp.tanh(x @ w) @ w.T
        return x

    q = qpass.transform(fn, qpass.Rule(weight="int8"))
    (finding,) = q.plan([P["w"]] * 5, X).findings
    assert finding.startswith("'0', '1', '2' and 2 more stay float (81.9 kB, stored 21.8 kB)")
    assert "0/dot_general.0 wants int8 along axes (0,)" in finding
    assert "; the others likewise. Give both weight='int8 tensor'" in finding
