"""A decoder block on eight devices gives what it gives on one, and sends codes, not floats."""

import json
import math
import os
import subprocess
import sys
from functools import cache

import pytest

from tests.devices.block import MESHES, SHAPES

TOKENS = 8 * 12
GROUPS = 8  # at most, in the block; weights have more elements along each axis that is last
slow = pytest.mark.slow
SCHEMES = ["int8 x int8", pytest.param("int8", marks=slow), pytest.param("int4 g16", marks=slow)]


@cache
def measured(asked):
    run = subprocess.run(
        (sys.executable, "-m", "tests.devices.eight", asked),
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("side", ["data", "columns", "rows"])
@pytest.mark.parametrize("mode", ["Auto", "Explicit"])
def test_products_of_codes_are_exact(mode, side):
    """Sums of codes are integers wherever they are added up, and ranges do not depend on order."""
    found = measured("products")[f"{mode}, {side}"]
    assert found["error"] == 0.0
    kinds = {(kind, dtype) for kind, dtype, *_ in found["sent"]}
    assert kinds == ({("all-reduce", "f32"), ("all-reduce", "s32")} if side == "rows" else set())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_block_gives_what_one_device_gives(mesh, scheme):
    """Sums of floats (norms, softmax) differ in the last bit, which may turn an activation's code.

    So the result is compared to 1e-6 where activations are floats, and to a step where they are
    not; `test_products_of_codes_are_exact` holds the products themselves.
    """
    found = measured(scheme)[mesh]
    assert found["alike"]
    assert found["error"] < (1e-2 if scheme == "int8 x int8" else 1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mesh", MESHES)
def test_no_float_weight_is_gathered(mesh, scheme):
    sent = measured(scheme)[mesh]["sent"]
    shapes = [shape for kind, dtype, shape, _ in sent if kind == "all-gather" and dtype != "s8"]
    assert [s for s in shapes if not (TOKENS in s or _is_of_scales(s))] == []


def _is_of_scales(shape):
    """One scale per row, or one for each group of it; of weights, even in chunks, are more."""
    return shape[-1] <= GROUPS or (len(shape) == 2 and shape[0] == 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fsdp_gathers_each_code_once(scheme):
    sent = measured(scheme)["fsdp"]["sent"]
    codes = sum(nbytes for kind, dtype, _, nbytes in sent if (kind, dtype) == ("all-gather", "s8"))
    assert codes == sum(math.prod(shape) for name, shape in SHAPES.items() if name != "router")
