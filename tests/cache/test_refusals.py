"""What is no cache, or cannot be stored as one: said with the reason."""

from typing import Any

import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.cache import programs
from tests.cache.programs import BOTH, S

ARGS = (programs.params(), programs.inputs(1), programs.empty(), 0)


def plan(fn, *args: Any, rule=None, **options):
    rule = rule or qpass.Rule(cache=BOTH, store="int8")
    return qpass.transform(fn, rule, **options).plan(*(args or ARGS))


def changed(change):
    def fn(p, x, cache, pos):
        y, cache = programs.step(p, x, cache, pos)
        return y, {name: change(value) for name, value in cache.items()}

    return fn


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (changed(lambda v: v * 2), "dequantized at mul"),
        (changed(lambda v: v.swapaxes(1, 2)), "does not come out of the program as it went in"),
        (lambda p, x, cache, pos: (x, cache), "nothing is written into it"),
        (changed(lambda v: v.at[:, 0].add(1.0)), "dequantized at scatter-add"),
    ],
)
def test_what_is_no_cache_is_an_error_that_says_why(fn, why):
    with pytest.raises(qpass.RuleError, match=why):
        plan(fn)


def test_a_cache_that_no_product_reads():
    def fn(p, x, cache, pos):
        _, k, v = programs.project(p, x)
        return x, programs.write(cache, k, v, (0, pos, 0, 0))

    with pytest.raises(qpass.RuleError, match="no dot_general reads it"):
        plan(fn)


def test_a_rule_that_fits_no_input_names_the_nearest():
    rule = qpass.Rule(cache="**/cached_key", store="int8")
    with pytest.raises(qpass.RuleError, match=r"fits no input.*cache/k"):
        plan(programs.step, rule=qpass.Rule(cache="cache/key", store="int8"))
    with pytest.warns(UserWarning, match="fits no input"):
        plan(programs.step, rule=rule, strict=False)


def test_one_leaf_that_is_refused_is_told():
    def fn(p, x, cache, pos):
        y, cache = programs.step(p, x, cache, pos)
        return y, cache | {"v": cache["v"] * 1.5}

    found = plan(fn)
    assert any("cache/v stays a float cache" in text for text in found.findings)
    assert any("cache/k is a cache of" in text for text in found.findings)


def test_tokens_that_cannot_be_told_from_features():
    def fn(p, x, cache):
        y, cache = programs.step(p, x, cache, 0)
        return y, cache

    args = programs.params(), programs.inputs(S), programs.empty()
    with pytest.raises(qpass.RuleError, match=r"tokens cannot be told.*per="):
        plan(fn, *args)
    assert plan(fn, *args, rule=qpass.Rule(cache=BOTH, store="int8", per=(0, 1, 2))).caches


def test_scales_shared_by_what_is_written_apart():
    with pytest.raises(qpass.RuleError, match="axis 1 are written apart"):
        plan(programs.step, rule=qpass.Rule(cache=BOTH, store="int8", per=(0, 2)))


def test_the_plan_names_caches_and_their_products():
    found = plan(programs.step)
    rows = [row for row in found.rows if "reads the cache" in " ".join(row.notes)]
    assert [row.role for row in rows] == ["qk", "pv"]
    assert all(row.kernel for row in rows)
    assert len([text for text in found.findings if "is a cache of" in text]) == 2


def test_a_product_that_is_kept_reads_decoded():
    keep = qpass.Rule(role="qk", keep=True)
    rules = [keep, qpass.Rule(cache=BOTH, store="int8")]
    q = qpass.transform(programs.step, rules)
    assert any("decoded: kept float by rule 0" in str(row.notes) for row in q.plan(*ARGS).rows)


def test_keys_of_a_cache_are_not_smoothed_and_the_plan_says_why():
    """Products and numbers are those of the rule without it."""
    cache = qpass.Rule(cache=BOTH, store="int8")
    plain, smooth = (
        qpass.transform(programs.step, [qpass.Rule(role="qk", act="int8", smooth=on), cache])
        for on in (False, True)
    )
    (note,) = (note for row in smooth.plan(*ARGS).rows for note in row.notes if "smooth" in note)
    assert "the mean of the keys is not known when the first of them is rounded" in note
    stored = plain.quantize_cache(*ARGS)
    want, got = (q(ARGS[0], ARGS[1], stored, 0)[0] for q in (plain, smooth))
    assert (want == got).all()


def test_other_rules_are_of_products():
    def fn(p, x, cache, pos):
        return programs.step(p, x, cache, pos)

    rules = [qpass.Rule(weight="int8"), qpass.Rule(cache=BOTH, store="int8")]
    q = qpass.transform(fn, rules)
    qp = q.quantize(*ARGS)
    cache = q.quantize_cache(qp, *ARGS[1:])
    assert isinstance(qp["q"], qpass.QTensor)
    assert isinstance(cache["k"], qpass.QTensor)
    assert q(qp, ARGS[1], cache, 0)[0].shape == ARGS[1].shape


def test_a_stored_cache_where_the_rules_keep_it_float():
    q = qpass.transform(programs.step, qpass.Rule(cache=BOTH, store="int8"))
    cache = q.quantize_cache(*ARGS)
    other = qpass.transform(programs.step, qpass.Rule(cache=BOTH, store="int4"))
    with pytest.raises(qpass.CallError, match="k is stored as"):
        other(ARGS[0], ARGS[1], cache, 0)
    with pytest.raises(qpass.CallError, match="none of these stores a cache"):
        qpass.transform(programs.step, qpass.Rule(weight="int8")).quantize_cache(*ARGS)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"cache": BOTH}, "cache= and store= together"),
        ({"store": "int8"}, "cache= and store= together"),
        ({"cache": BOTH, "store": "int8", "weight": "int8"}, "Drop weight="),
        ({"cache": BOTH, "store": "int8", "path": "**"}, "Drop path="),
        ({"cache": BOTH, "store": "int8", "per": "head"}, "per='token'"),
        ({"cache": BOTH, "store": "int8", "per": (0, 0)}, "per='token'"),
        ({"cache": BOTH, "store": "int3"}, "no bytes of its own"),
        ({"cache": BOTH, "store": "mxfp8"}, "not float32"),
        ({"cache": BOTH, "store": "int8 static"}, "range is not that of the entry"),
        ({"cache": BOTH, "store": "int8 sr"}, "at random"),
        ({"cache": BOTH, "store": "int8 tensor"}, "said by per= and groups"),
        ({"cache": 3, "store": "int8"}, "cache="),
    ],
)
def test_rules_that_say_nothing_sensible(rule, why):
    with pytest.raises(qpass.RuleError, match=why):
        qpass.Rule(**rule)


def test_a_read_in_float_is_decoded_there_and_noted():
    def fn(p, x, cache, pos):
        y, cache = programs.step(p, x, cache, pos)
        return y + jnp.sum(cache["k"]), cache

    q = qpass.transform(fn, qpass.Rule(cache=BOTH, store="int8"))
    stored = q.quantize_cache(*ARGS)
    notes = q.plan(ARGS[0], ARGS[1], stored, 0).rewritten_notes
    assert any("reduce_sum" in text for _, text in notes)


def test_a_cache_of_integers():
    def fn(p, x, cache, pos):
        y, rest = programs.step(p, x, {n: cache[n] for n in "kv"}, pos)
        number = lax.dynamic_update_slice(cache["n"], jnp.ones(1, jnp.int32), (pos,))
        return y, {**rest, "n": number}

    cache = {**programs.empty(), "n": jnp.zeros(S, jnp.int32)}
    found = plan(fn, ARGS[0], ARGS[1], cache, 0)
    assert any("its dtype is int32" in text for text in found.findings)
