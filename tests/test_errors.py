"""Bad input: an error of qpass's own that names the place, what is wrong, and the way out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import CASES, rules

CHAIN = CASES["chain"]
INT8 = rules("int8")


def chain():
    params, x = CHAIN.arguments()
    q = qpass.transform(CHAIN.fn, INT8)
    return q, params, x


def refused(error, run, *words):
    """Run; the error's text, which has to hold every one of the words."""
    with pytest.raises(error) as caught:
        run()
    assert isinstance(caught.value, qpass.QPassError)
    text = str(caught.value)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    return text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite(bad):
    q, params, x = chain()
    params["down"] = params["down"].at[3, 4].set(bad).at[0, 0].set(bad)
    refused(qpass.QuantizeError, lambda: q.quantize(params, x), "down", "2 of 960", "keep=True")


def test_a_leaf_that_stays_float_may_hold_anything():
    q, params, x = chain()
    params["bias"] = params["bias"].at[0].set(np.nan)
    assert isinstance(q.quantize(params, x)["down"], qpass.QTensor)


def test_an_unmatched_rule_names_the_nearest():
    q = qpass.transform(CHAIN.fn, [qpass.Rule(path="dwon", weight="int8")])
    refused(qpass.RuleError, lambda: q(*CHAIN.arguments()), "rule 0", "dwon", "down")


def test_an_unknown_type():
    refused(qpass.UnknownTypeError, lambda: qpass.Rule(weight="int9"), "int9", "int8")


@pytest.mark.parametrize(
    "fields",
    [
        {"keep": True, "weight": "int8"},
        {"path": "**"},
        {"act": "int8"},
        {"weight": qpass.int4.grouped(32), "act": qpass.int8.grouped(48)},
        {"role": "activations", "weight": "int8"},
    ],
    ids=str,
)
def test_a_contradictory_rule(fields):
    refused(qpass.RuleError, lambda: qpass.Rule(**fields))


@pytest.mark.parametrize(
    ("dtype", "word"),
    [("int32", "integer product"), ("complex64", "complex product"), ("float8_e4m3fn", "float8")],
)
def test_a_rule_that_fits_only_products_of_unsupported_dtypes(dtype, word):
    params, x = {"w": jnp.ones((8, 4), dtype)}, jnp.ones((2, 8), dtype)
    q = qpass.transform(lambda p, x: jax.lax.dot(x, p["w"]), INT8)
    refused(qpass.RuleError, lambda: q(params, x), "rule 0", "dot_general", word)


def test_products_of_float64_are_refused():
    with jax.enable_x64(True):
        params, x = {"w": jnp.ones((8, 4))}, jnp.ones((2, 8))
        q = qpass.transform(lambda p, x: x @ p["w"], INT8)
        refused(qpass.RuleError, lambda: q(params, x), "rule 0", "float64", "float32")


def test_one_supported_product_is_enough_and_the_plan_names_the_others():
    def fn(p, x):
        return x @ p["w"], x.astype(jnp.int32) @ p["n"]

    params = {"w": jnp.ones((8, 4)), "n": jnp.ones((8, 4), jnp.int32)}
    plan = qpass.transform(fn, INT8).plan(params, jnp.ones((2, 8)))
    reasons = [decision.reason for decision in plan.decisions]
    assert reasons[0] == ""
    assert reasons[1].startswith("integer product")


@pytest.mark.parametrize("method", ["__call__", "plan", "quantize", "compare"])
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1, 2), {"y": 3})])
def test_wrong_arguments(method, args, kwargs):
    q, _, _ = chain()
    run = getattr(q, method)
    refused(qpass.CallError, lambda: run(*args, **kwargs), "chain", "arguments")


@pytest.mark.parametrize("params", [7, "weights", -1])
def test_params_that_name_nothing(params):
    q = qpass.transform(CHAIN.fn, INT8, params=params)
    refused(qpass.CallError, lambda: q(*CHAIN.arguments()), repr(params), "'p', 'x'")


def test_a_predicate_on_paths_that_fits_nothing():
    q = qpass.transform(CHAIN.fn, INT8, params=lambda path: "kernel" in path)
    refused(qpass.QPassError, lambda: q.quantize(*CHAIN.arguments()), "param")


def test_no_parameters_at_all():
    q = qpass.transform(CHAIN.fn, [qpass.Rule(role="*", weight="int8")], params=None)
    refused(qpass.CallError, lambda: q.quantize(*CHAIN.arguments()), "params=")


def test_something_that_is_no_function():
    refused(qpass.CallError, lambda: qpass.transform(3, INT8), "int")


@pytest.mark.parametrize("given", [["int8"], [None], "int8"])
def test_something_that_is_no_rule(given):
    refused(qpass.RuleError, lambda: qpass.transform(CHAIN.fn, given), "qpass.Rule")


def test_jit_without_rules():
    refused(qpass.CallError, lambda: qpass.jit(CHAIN.fn), "rules=")


def corrupt(q, **changes):
    return dataclasses.replace(q, **changes)


CORRUPTIONS = {
    "codes too short": lambda q: corrupt(q, codes=q.codes[:-1]),
    "scale too short": lambda q: corrupt(q, scale=q.scale[:-1]),
    "scale of another rank": lambda q: corrupt(q, scale=q.scale[0]),
    "codes of another dtype": lambda q: corrupt(q, codes=q.codes.astype(jnp.int16)),
    "codes for a type of another width": lambda q: corrupt(q, qtype=qpass.int4),
    "scale of another dtype": lambda q: corrupt(q, scale=q.scale.astype(jnp.bfloat16)),
    "codes and scale swapped": lambda q: corrupt(q, codes=q.scale, scale=q.codes),
    "codes missing": lambda q: corrupt(q, codes=None),
    "scale missing": lambda q: corrupt(q, scale=None),
}


@pytest.mark.parametrize("change", CORRUPTIONS.values(), ids=CORRUPTIONS)
@pytest.mark.parametrize("run", [lambda q: q, jax.jit, lambda q: q.plan], ids=["", "jit", "plan"])
def test_a_corrupt_tensor(change, run):
    q, params, x = chain()
    qparams = q.quantize(params, x)
    qparams["up"] = change(qparams["up"])
    refused(qpass.CorruptTensorError, lambda: run(q)(qparams, x), "up", "Quantize")


def test_a_tensor_of_another_shape():
    q, params, x = chain()
    qparams = q.quantize(params, x)
    small = jax.tree.map(lambda a: a, qparams["up"].slice((0, 0), (24, 36)))
    qparams["up"] = small
    refused(qpass.QPassError, lambda: q(qparams, x), "up")


def test_swapped_leaves():
    q, params, x = chain()
    qparams = q.quantize(params, x)
    qparams["up"], qparams["down"] = qparams["down"], qparams["up"]
    refused(qpass.QPassError, lambda: q(qparams, x), "up")


def test_swapped_leaves_of_one_shape_but_other_axes():
    """Square weights, one of them transposed: only the axes of the scales differ."""

    def fn(p, x):
        return x @ p["a"] @ p["b"].T

    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}
    q = qpass.transform(fn, INT8)
    qparams = q.quantize(params, jnp.ones((2, 8)))
    swapped = {"a": qparams["b"], "b": qparams["a"]}
    refused(qpass.CallError, lambda: q(swapped, jnp.ones((2, 8))), "a is stored", "Quantize")


def test_a_missing_leaf():
    q, params, x = chain()
    qparams = q.quantize(params, x)
    del qparams["up"]
    with pytest.raises(KeyError, match="up"):  # as the function itself says it
        q(qparams, x)


def test_a_tree_quantized_with_other_rules():
    q, params, x = chain()
    other = qpass.transform(CHAIN.fn, rules(qpass.int4.grouped(8))).quantize(params, x)
    refused(qpass.CallError, lambda: q(other, x), "down", "int4", "int8", "these rules")


def test_a_quantized_leaf_where_the_plan_keeps_float():
    q, params, x = chain()
    qparams = q.quantize(params, x)
    kept = qpass.transform(CHAIN.fn, [qpass.Rule(path="up", keep=True), *INT8])
    refused(qpass.CallError, lambda: kept(qparams, x), "up", "keep it float", "float leaf")


def test_compare_with_quantized_parameters():
    q, params, x = chain()
    refused(
        qpass.CallError, lambda: q.compare(q.quantize(params, x), x), "float parameters", "down"
    )


def test_a_site_that_the_plan_does_not_have():
    q, params, x = chain()
    plan = q.plan(params, x)
    refused(qpass.PlanError, lambda: plan["chain/dot_genral.0"], "dot_general.0")


def test_a_static_argument_that_cannot_be_hashed():
    class Box:
        __hash__ = None

    q = qpass.transform(lambda p, x, box: x @ p["w"], INT8)
    call = lambda: q({"w": jnp.ones((8, 4))}, jnp.ones((2, 8)), Box())  # noqa: E731
    refused(qpass.CallError, call, "hashable", "Box")


def test_a_where_that_fails_names_the_site():
    rule = qpass.Rule(where=lambda site: site.nothing, weight="int8")
    q = qpass.transform(CHAIN.fn, [rule])
    refused(qpass.RuleError, lambda: q(*CHAIN.arguments()), "nothing", "dot_general")


def test_an_unknown_platform():
    q, params, x = chain()
    refused(qpass.PlanError, lambda: q.plan(params, x, platform="cdua"), "cdua", "cuda")


def test_without_strictness_rules_without_effect_only_warn():
    unmatched = [qpass.Rule(path="nothing", weight="int8"), *INT8]
    with pytest.warns(UserWarning, match="nothing"):
        plan = qpass.transform(CHAIN.fn, unmatched, strict=False).plan(*CHAIN.arguments())
    assert all(decision.action for decision in plan.decisions)
    params, x = {"w": jnp.ones((8, 4), jnp.int32)}, jnp.ones((2, 8), jnp.int32)
    q = qpass.transform(lambda p, x: x @ p["w"], INT8, strict=False)
    with pytest.warns(UserWarning, match="quantizes nothing"):
        np.testing.assert_array_equal(q(params, x), 8)
