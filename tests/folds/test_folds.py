"""Folds of small programs: what is found, that nothing changes, and why others are refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.folds.find import BOUND, _tried
from qpass_bench.models import minilm
from tests.folds import programs as p

RULES = qpass.Rule(weight="int8")
X = p.inputs()


def folds_of(fn, *args):
    return qpass.transform(fn, RULES, strict=False).folds(*args)


def _names(paths):
    return " ".join(sorted(paths))


def drawn(fold, seed=3) -> np.ndarray:
    """Factors between 1/4 and 4, one for each group."""
    exponents = np.random.default_rng(seed).uniform(-2, 2, fold.groups.max() + 1)
    return np.asarray(2.0 ** exponents[fold.groups], np.float32)


FOUND = {
    # program, parameters, [(divided, multiplied, shape, groups)]
    "gain": (p.gain, p.parameters("gain", "q", "k"), [("gain", "k q", (p.D,), p.D)]),
    "one plus gain": (p.one_plus, p.parameters("gain", "q"), [("gain", "q", (p.D,), p.D)]),
    "gain and bias": (
        p.gain_and_bias,
        p.parameters("gain", "bias", "q"),
        [("bias gain", "q", (p.D,), p.D)],
    ),
    "gated": (p.gated, p.parameters("gate", "up", "down"), [("up", "down", (p.F,), p.F)]),
    "half of a fused weight": (
        p.fused_gate,
        p.parameters("gate_up", "down"),
        [("gate_up", "down", (p.F,), p.F)],
    ),
    "half of a stack": (
        p.half_of_a_stack,
        p.parameters("gate", "up", "down"),
        [("up", "down", (p.F,), p.F)],
    ),
    "relu": (
        p.relu,
        p.parameters("up", "down", bias=(p.F,)),
        [("bias up", "down", (p.F,), p.F)],
    ),
    "grouped heads": (
        p.grouped_attention,
        p.parameters("o", **p.ATTENTION),
        [("v", "o", (p.KV * p.GROUPS * p.HEAD,), p.KV * p.HEAD)],
    ),
    "repeated heads": (
        p.repeated_attention,
        p.parameters("o", **p.ATTENTION),
        [("v", "o", (p.KV * p.GROUPS * p.HEAD,), p.KV * p.HEAD)],
    ),
    "layers in a scan": (
        p.scanned,
        p.parameters(**p.STACKED),
        [
            ("gain", "gate up", (p.LAYERS, p.D), p.LAYERS * p.D),
            ("up", "down", (p.LAYERS, p.F), p.LAYERS * p.F),
        ],
    ),
    "one gain for all layers": (
        p.shared_gain,
        p.parameters("gain", "stack"),
        [("gain", "stack", (p.LAYERS, p.D), p.D)],
    ),
    "both branches": (p.branches, p.parameters("gain", "q", "k"), [("gain", "k q", (p.D,), p.D)]),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_fold_is_found_and_changes_nothing(name):
    fn, params, wanted = FOUND[name]
    folds = folds_of(fn, params, X)
    assert folds.error <= BOUND
    found = [(_names(f.absorbed_by), _names(f.weights), f.shape, f.groups.max() + 1) for f in folds]
    assert found == wanted
    before = p.in_float64(fn, params, X)
    for fold in folds:
        after = p.in_float64(fn, fold.apply(params, drawn(fold)), X)
        np.testing.assert_allclose(after, before, rtol=2e-6, atol=2e-6)


def test_the_value_that_products_read_is_divided():
    """By numbers written down here, not only unchanged in its effect."""
    params = p.parameters("gain", "q", "k")
    (fold,) = folds_of(p.gain, params, X)
    s = drawn(fold)
    folded = fold.apply(params, s)
    np.testing.assert_allclose(folded["gain"], np.asarray(params["gain"]) / s, rtol=1e-6)
    for name in "qk":
        np.testing.assert_allclose(folded[name], np.asarray(params[name]) * s[:, None], rtol=1e-6)


def test_what_is_added_to_a_gain_is_left_as_it_is():
    params = p.parameters("gain", "q")
    (fold,) = folds_of(p.one_plus, params, X)
    folded = fold.apply(params, fold.tied(1 + params["gain"]))
    np.testing.assert_allclose(folded["gain"], 0, atol=1e-6)


TABLE = p.parameters("table", "gain")
REFUSED = {
    # program, arguments, what the reason says
    "residual": (p.residual, (p.parameters("gain", "bias", "q", "out"), X), "reduce_sum", "add"),
    "no gain": (p.no_gain, (p.parameters("q"), X), "rsqrt", "not proportional"),
    "smooth activation": (
        p.smooth_activation,
        (p.parameters("up", "down"), X),
        "not proportional",
        "mul",
    ),
    "tied embedding": (p.tied, (TABLE, jnp.arange(4)), "gather", "programs"),
    "gain read twice": (p.read_twice, (p.parameters("gain", "q"), X), "integer_pow", "programs"),
    "plus one": (p.plus_one, (p.parameters("gain", "q", "k"), X), "to be left as it is", "add"),
    "returned": (p.returned, (p.parameters("gain", "q"), X), "meets a result of the function"),
    "a cache": (
        p.cached,
        (p.parameters("up", "down"), X, p.inputs(2, p.F)),
        "the argument cache",
        "concatenate",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_where_and_why(name):
    fn, args, *said = REFUSED[name]
    folds = folds_of(fn, *args)
    reasons = [r.reason for r in folds.refusals]
    assert any(all(text in reason for text in said) for reason in reasons), reasons
    assert not any("down" in f.weights or "table" in f.weights for f in folds)


def test_norms_after_each_block():
    """A BERT encoder: the residual stream is what products read, so that only values fold."""
    config = minilm.EncoderConfig(vocab=16, positions=8, layers=2, width=8, heads=2, hidden=12)
    ids, mask = jnp.arange(8)[None] % 5, jnp.ones((1, 8), jnp.int32)
    encoder = minilm.Encoder(config)
    params = encoder.init(jax.random.key(0), ids, mask)
    folds = folds_of(encoder.apply, params, ids, mask)
    paths = [path for fold in folds for path in (*fold.absorbed_by, *fold.weights)]
    assert paths
    assert all("/value/" in path or "/out/" in path for path in paths)
    assert any("takes all channels together" in r.reason for r in folds.refusals)
    assert any("erf" in r.reason for r in folds.refusals)


def test_every_product_of_a_weight_has_a_fold_or_a_reason():
    params = p.parameters(**p.STACKED)
    q = qpass.transform(p.scanned, RULES)
    folds = q.folds(params, X)
    told = [s for f in folds for s in f.sites] + [s for r in folds.refusals for s in r.sites]
    assert sorted(told) == sorted(row.id for row in q.plan(params, X).rows)
    text = str(folds)
    assert all(site in text for site in told)
    assert folds["down/dot_general.0"].absorbed_by == ("up",)
    with pytest.raises(qpass.FoldError, match="no fold of nothing"):
        folds["nothing"]


def test_a_fold_that_changes_the_result_is_undone():
    """One that forgets a consumer, beside one that is right."""
    params = p.parameters(**p.STACKED)
    q = qpass.transform(p.scanned, RULES)
    right = q.folds(params, X)
    wrong = replace(right[0], parts=right[0].parts[:-1])
    with q._enter((params, X), {}) as (boundary, call):
        plan = q._plan(call, boundary)
        tried = _tried(plan, call, [wrong, right[1]], [])
    assert tried.found == (right[1],)
    assert tried.refusals[0].sites == wrong.sites
    assert "changes the result" in tried.refusals[0].reason


@pytest.mark.parametrize(
    ("s", "said"),
    [
        (np.ones(3), r"factors \(16,\)"),
        (np.zeros(16), "positive"),
        (np.linspace(1, 2, 16), "fold.tied"),
    ],
)
def test_factors_that_do_not_fit(s, said):
    params = p.parameters("o", **p.ATTENTION)
    (fold,) = folds_of(p.grouped_attention, params, X)
    with pytest.raises(qpass.FoldError, match=said):
        fold.apply(params, s)


def test_quantized_parameters_are_refused():
    params = p.parameters("gain", "q", "k")
    q = qpass.transform(p.gain, RULES)
    (fold,) = q.folds(params, X)
    stored = q.quantize(params, X)
    with pytest.raises(qpass.FoldError, match="before quantizing"):
        fold.apply(stored, jnp.ones(fold.shape))
    with pytest.raises(qpass.FoldError, match="float parameters"):
        q.folds(stored, X)
