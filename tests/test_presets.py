"""Presets: what they stand for, and the page that lists them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass import presets
from tests.programs import CASES, normal

PAGE = Path(__file__).parents[1] / "docs" / "presets.md"
SIZE = 1024


def bits(rule):
    """Bits that an element of a stored square weight takes, from its shapes alone."""
    w = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    q = qpass.transform(CASES["matmul"].fn, [rule])
    return 8 * q.quantize({"w": w}, w)["w"].nbytes / SIZE**2


def row(name):
    rule = presets.PRESETS[name]()
    act = f"`{rule.act}`" if rule.act else "float"
    return f"| `{name}` | `{rule.weight}` | {act} | {bits(rule):.2f} |"


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_page_lists_every_preset_as_it_is(name):
    assert row(name) in PAGE.read_text().splitlines()


# mean|e| / mean|y| of a product of normal numbers, from above
BOUNDS = {"int8_weight_only": 0.009, "int8_dynamic_int8": 0.02, "int8_asymmetric_int8": 0.02}
BOUNDS |= {"float8_weight_only": 0.03, "float8_dynamic_float8": 0.04, "float8_blocks": 0.04}
BOUNDS |= {"mxfp8": 0.04, "nf4": 0.14, "nvfp4": 0.17}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_errors_are_bounded(name):
    rng = np.random.default_rng(0)
    x, w = normal(rng, (16, 256)), normal(rng, (256, 64))
    got = qpass.transform(CASES["matmul"].fn, [presets.PRESETS[name]()])({"w": w}, x)
    exact = np.float64(x) @ np.float64(w)
    error = np.abs(got - exact).mean() / np.abs(exact).mean()
    assert 0.001 < error < BOUNDS.get(name, 0.12)


def test_selectors_and_groups_are_passed_on():
    rule = presets.int8_dynamic_int4(group=64, path="**/mlp/**")
    assert rule.describe() == "path=**/mlp/** weight=int4 g64 act=int8 asym"
