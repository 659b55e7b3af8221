"""Recipes: what each expands to, by the page; gradients beside float; MaxText's mixed precision."""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass.errors import RuleError, StateError
from qpass.numerics.schemes import Backward
from qpass.training import recipe, recipes
from tests.jaxprs import count, equations
from tests.training.common import batch, loss, parameters

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
LISTED = [name for name in recipes.RECIPES if name != "intmp"]


def row(name):
    """A line of the table in the page."""
    rule = recipe(name)
    products = [_product(rule, own) for own in ("dlhs", "drhs")]
    return f"| `{name}` | `{rule.weight}` | `{rule.act}` | {' | '.join(products)} |"


def _product(rule, name):
    own = getattr(rule, name) or (Backward() if rule.grad else None)
    if own is None:
        return "float"
    return f"`{own.or_else(rule.grad, rule.weight if name == 'dlhs' else rule.act)}`"


@pytest.mark.parametrize("name", LISTED)
def test_the_page_lists_every_recipe_as_it_is(name):
    assert row(name) in PAGE.read_text().splitlines()


@cache
def float_gradients():
    """Of a batch with which no layer is saturated."""
    return jax.jit(jax.grad(loss))(parameters(width=32), batch(rows=64, width=32))


# mean|Δ| / mean|gradient| of this network, from above
BOUNDS = {
    "fp8_delayed_scaling": 0.1,
    "fp8_blocks": 0.09,
    "nvfp4": 0.35,
    "te_nvfp4": 0.35,
    "aqt_fp8_full": 0.1,
    "int8": 0.03,
    "int4": 0.3,
    "fp8": 0.08,
    "fp8_full": 0.09,
    "fp8_current_scaling": 0.1,
    "fp8_nanoo": 0.1,
    "mxfp8": 0.09,
    "aqt_fp8": 0.07,
}


@pytest.mark.parametrize(
    "name",
    [n if k < 1 else pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(BOUNDS)],
)
def test_gradients_beside_float(name):
    params, x = parameters(width=32), batch(rows=64, width=32)
    q = qpass.transform(loss, recipe(name)).with_key(jax.random.key(0))
    step = qpass.value_and_grad(q)
    products = [d for d in step.plan(params, x).decisions if d.site.role in ("dlhs", "drhs")]
    assert len(products) == 4
    assert all((d.action is None) == (name == "aqt_fp8") for d in products)
    try:
        state = step.init_state(params, x)
    except StateError:
        _, grads = jax.jit(step)(params, x)
    else:
        apply = jax.jit(step.apply)
        _, state = apply(state, params, x)
        (_, grads), _ = apply(state, params, x)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(float_gradients()), strict=True)
    gaps = [float(jnp.abs(a - b).mean() / jnp.abs(b).mean()) for a, b in pairs]
    assert 0 < max(gaps) < BOUNDS[name]


E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
# Operands of the forward and of the backward products: the gradient is on the left.
PRODUCTS = {
    "fp8_delayed_scaling": ((E4M3, E4M3), (E5M2, E4M3)),
    "fp8_blocks": ((E4M3, E4M3), (E4M3, E4M3)),
    "aqt_fp8": ((E4M3, E4M3), None),
    "aqt_fp8_full": ((E4M3, E4M3), (E5M2, E5M2)),
    "int8": (("int8", "int8"), ("int8", "int8")),
    "int4": (("int4", "int4"), ("int4", "int4")),
    "fp8_current_scaling": ((E4M3, E4M3), (E5M2, E4M3)),
    "fp8_full": ((E4M3, E4M3), (E5M2, E4M3)),
    "mxfp8": ((E4M3, E4M3), (E4M3, E4M3)),
}


@pytest.mark.parametrize(
    "name",
    [n if k < 4 else pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(PRODUCTS)],
)
def test_three_products_of_codes_for_each_site(name):
    """Two sites, of which one is scanned; none of the products is one of floats."""
    params, x = parameters(width=32), batch(rows=64, width=32)
    step = qpass.value_and_grad(qpass.transform(loss, recipe(name)))
    try:
        program = jax.make_jaxpr(step.apply)(step.init_state(params, x), params, x)
    except StateError:
        program = jax.make_jaxpr(step)(params, x)
    products = Counter(
        tuple(v.aval.dtype.name for v in eqn.invars[:2])
        for eqn in equations(program.jaxpr)
        if eqn.primitive.name == "quantized_matmul"
    )
    forward, backward = PRODUCTS[name]
    of_codes = 0 if backward is None else 4
    assert products == +(Counter({forward: 2}) + Counter({backward: of_codes}))
    assert count(program.jaxpr, "dot_general") == 4 - of_codes


def test_local_gradients_of_weights():
    rule = recipe("int8", shards=4, path="layers")
    assert rule.describe() == (
        "path=layers weight=int8 act=int8 grad=int8 drhs=int8 g1/4 x int8 g1/4"
    )
    with pytest.raises(RuleError, match="1 part or more; got shards=0"):
        recipe("fp8", shards=0)


def test_bounds_of_six_operands():
    """The gradient is the left operand of both backward products."""
    rule = recipe("aqt_fp8_full", bounds=(1, 2, 3, 4, 5, 6))
    assert str(rule.act) == "fp8_e4m3 fixed,1"
    assert str(rule.weight) == "fp8_e4m3 fixed,2"
    assert [str(q) for q in rule.dlhs.quantizers] == ["fp8_e5m2 fixed,3", "fp8_e5m2 fixed,4"]
    assert [str(q) for q in rule.drhs.quantizers] == ["fp8_e5m2 fixed,5", "fp8_e5m2 fixed,6"]
    with pytest.raises(RuleError, match="six bounds"):
        recipe("aqt_fp8_full", bounds=(1, 2))


def test_ranges_of_maxtext():
    rule = recipe("fp8_full", weight="fixed,-224,224", act="fixed,-224,224")
    assert rule.describe() == ("weight=fp8_e4m3 fixed,224 act=fp8_e4m3 fixed,224 grad=fp8_e5m2")


def test_options_of_delayed_scaling():
    rule = recipe("te_fp8_delayedscaling", length=16, margin=1, most_recent=True)
    assert str(rule.grad) == "fp8_e5m2 most_recent,16,1"


def mixed(params, x):
    """Modules as Linen names them."""
    for name in ("wi", "wo"):
        x = jax.nn.relu(x @ params["params"]["decoder"]["mlp"][name]["kernel"])
    return x @ params["params"]["decoder"]["out"]["kernel"]


def test_mixed_precision(tmp_path):
    """The last expression that fits decides; null stays float; fields come from the default."""
    config = {
        "__default__": {"w_bits": 8, "a_bits": 8},
        "decoder/.*": {"w_bits": 4, "tile_size": 16},
        "decoder/mlp/wo": {"w_scale": 0.9, "a_bits": None},
        "decoder/out": {"w_bits": None, "a_bits": None},
    }
    path = tmp_path / "mp.json"
    path.write_text(json.dumps(config))
    kernels = {name: {"kernel": jnp.ones((32, 32))} for name in ("wi", "wo")}
    params = {"params": {"decoder": {"mlp": kernels, "out": {"kernel": jnp.ones((32, 4))}}}}
    for given in (path, config):
        rules = recipe("intmp", given)
        plan = qpass.transform(mixed, rules).plan(params, jnp.ones((2, 32)))
        got = {row.weight.split("/")[-2]: row.scheme or row.reason for row in plan.rows}
        assert got == {
            "wi": "int4 g16 x int8 g16",
            "wo": "int8 absmax,0.9 weight-only",
            "out": "kept float by rule 0",
        }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"a": {"w_bit": 8}}, r"'a' has 'w_bit': did you mean 'w_bits'"),
        ({"a": {"a_bits": 8}}, "Give w_bits beside a_bits for 'a'"),
        ({"a": 8}, "a dict of dicts by module"),
    ],
)
def test_wrong_mixed_precision(config, said):
    with pytest.raises(RuleError, match=said):
        recipe("intmp", config)


def test_names():
    with pytest.raises(RuleError, match=r"'fp8_gpus' is none: did you mean 'fp8_gpu'"):
        recipe("fp8_gpus")
