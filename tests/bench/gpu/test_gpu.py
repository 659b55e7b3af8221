"""What checks and times kernels on a GPU, tried out on CPU in tiny sizes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qpass_bench.gpu import decoder, exactness, run
from qpass_bench.gpu.cases import CASES, experts, product
from qpass_bench.gpu.products import time_case
from qpass_bench.gpu.ways import ragged_operands
from qpass_kernels import REFERENCE, XLA, Kernel
from qpass_kernels.tuning import Method

QUICK = Method(rounds=1, cache=1, least=2)
TINY = decoder.Shape("tiny", 16, 32, 2, 1, 8, vocab=32)
HERE = dataclasses.replace(XLA, platforms=("cpu",))


def wrong(product, *operands):
    return REFERENCE.run(product, *operands) + jnp.asarray(1, product.out)


def fails(product, *operands):
    raise RuntimeError("out of registers")


WRONG = Kernel("wrong", (), lambda p: None, wrong)
FAILS = Kernel("fails", (), lambda p: None, fails)


def asked(**changes):
    tiny = run.Asked(
        kernels=(HERE, REFERENCE),
        cases=[CASES[0].at_most(64)],
        method=QUICK,
        checks=2,
        shape=TINY,
        context=3,
        steps=2,
        prompt=4,
        copied=64,
    )
    return dataclasses.replace(tiny, **changes)


def test_the_whole_report():
    report = run.run(asked(), say=lambda text: None)
    assert run.wrong(report) == []
    assert len(report["checks"]) == 5  # two products by two kernels, one of experts by one
    (case,) = report["products"]
    assert [row["kernel"] for row in case["rows"]] == ["XLA bfloat16", "xla"]
    assert all(row["seconds"] > 0 for row in case["rows"])
    assert case["copy_bytes_per_second"] > 0
    assert case["met"] == {}  # XLA's product is none of ours
    assert [model["speedup"] > 0 for model in report["models"]] == [True, True]
    assert json.loads(json.dumps(report)) == report
    assert "XLA bfloat16" in run.summary(report)
    assert run.file_name(report) == "gpu-cpu.json"


def test_what_fails_is_reported_and_the_rest_goes_on():
    report = run.run(
        asked(kernels=(FAILS, WRONG, REFERENCE), checks=1, shape=None), say=lambda text: None
    )
    failed, off, good = report["checks"]
    assert failed["reason"] == "RuntimeError: out of registers"
    assert off["off"] > 1 >= good["off"]
    assert run.wrong(report) == [failed, off]
    rows = report["products"][0]["rows"]
    assert [row.get("reason") for row in rows] == [None, "RuntimeError: out of registers", None]
    assert "RuntimeError: out of registers" in run.summary(report)


@pytest.mark.parametrize(
    "p",
    [product(5, 72, 320, *kind) for kind in exactness.KINDS]
    + [experts(9, 72, 64, 3, *kind) for kind in exactness.RAGGED[1:4]],
    ids=lambda p: f"{p.lhs}-{p.rhs}-{p.group}",
)
def test_a_reference_is_right_by_the_bound(p):
    (row,) = exactness.check((REFERENCE,), [p])
    assert 0 < row["off"] <= 1


def test_targets_are_held_against_the_fastest_kernel():
    fast = dataclasses.replace(REFERENCE, name="ours")
    case = dataclasses.replace(CASES[4].at_most(16), speedup=1e-9, tera=1e9)
    report = time_case(case, (fast, HERE), QUICK, copied=64)
    assert report["against"] == "xla"
    assert report["met"] == {"speedup": True, "tera": False}


def test_experts_are_timed_beside_xla_and_checked_in_their_own_rows():
    report = time_case(CASES[-1].at_most(16), (REFERENCE,), QUICK, copied=64)
    assert [row["kernel"] for row in report["rows"]] == ["XLA bfloat16", "reference"]
    assert all(row["seconds"] > 0 for row in report["rows"])
    p = experts(9, 72, 64, 3, "int8", "int8")
    *given, sizes = ragged_operands(p)
    assert REFERENCE.ragged
    right = np.asarray(REFERENCE.ragged.run(p, *given, sizes), np.float64)
    other = jnp.roll(sizes, 1)
    off = abs(right - exactness.exact(p, *given, other)[0]) / exactness.allowed(p, *given, other)
    assert sizes.sum() == 9
    assert off.max() > 1


def test_every_case_has_a_target_and_a_kernel():
    for case in CASES:
        assert case.speedup or case.tera
        assert case.against in ("bfloat16", "xla")
        tiny = case.at_most(32).product
        assert max(tiny.m, tiny.n, tiny.k, tiny.group) <= 32


def test_without_a_gpu_the_command_says_so():
    script = Path(__file__).parents[3] / "bench" / "gpu.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no GPU here" in done.stderr
