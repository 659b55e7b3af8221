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
WEIGHTS = sum(math.prod(shape) for name, shape in SHAPES.items() if name != "router")
slow = pytest.mark.slow
MORE = ["int8", "int4 g16", "int4 g16 x int8"]
SCHEMES = ["int8 x int8", *(pytest.param(scheme, marks=slow) for scheme in MORE)]
SENT = ["int8 x int8", "int4 g16", *(pytest.param(s, marks=slow) for s in ("int8", MORE[-1]))]


@cache
def measured(*asked):
    run = subprocess.run(
        (sys.executable, "-m", "tests.devices.eight", *asked),
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
def test_each_stage_of_a_block_gives_what_one_device_gives(mesh, scheme):
    """Each stage begins with the numbers of one device, so that activations have its codes."""
    found = measured("blocks", scheme)[mesh]
    assert found["alike"]
    assert len(found["stages"]) == 9
    assert max(found["stages"].values()) < 1e-6, found["stages"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_block_gives_what_one_device_gives(mesh, scheme):
    """Sums of floats (norms, softmax) differ in the last bit, which may turn an activation's code.

    Of the inputs, two are such that it does somewhere; then a result is off by a step of that code.
    """
    errors = measured("blocks", scheme)[mesh]["errors"]
    assert min(errors) < 1e-6
    assert max(errors) < (1e-2 if scheme.endswith("x int8") else 1e-6)


def floats_gathered(scheme, mesh):
    """Shapes of gathered floats that are neither activations nor scales."""
    sent = measured("wires", scheme)[mesh]
    shapes = [shape for kind, dtype, shape, _ in sent if kind == "all-gather" and dtype != "s8"]
    return [s for s in shapes if not (TOKENS in s or _is_of_scales(s))]


@pytest.mark.parametrize("scheme", SENT)
@pytest.mark.parametrize("mesh", MESHES)
def test_no_float_weight_is_gathered(mesh, scheme):
    assert floats_gathered(scheme, mesh) == []


def test_float_weights_are_gathered_where_they_are_not_quantized():
    gathered = sum(math.prod(shape) for shape in floats_gathered("float", "fsdp"))
    assert gathered == WEIGHTS


def _is_of_scales(shape):
    """One scale per row, or one for each group of it; of weights, even in chunks, are more."""
    return shape[-1] <= GROUPS or (len(shape) == 2 and shape[0] == 1)


@pytest.mark.parametrize("scheme", SENT)
def test_fsdp_gathers_each_code_once(scheme):
    sent = measured("wires", scheme)["fsdp"]
    codes = sum(nbytes for kind, dtype, _, nbytes in sent if (kind, dtype) == ("all-gather", "s8"))
    assert codes == WEIGHTS
