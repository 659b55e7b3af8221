"""What checks and times kernels on a GPU, tried out on CPU in tiny sizes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from qpass_bench.gpu import decoder, exactness, run
from qpass_bench.gpu.cases import CASES
from qpass_bench.gpu.products import time_case
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
    assert len(report["checks"]) == 4  # two products, two kernels
    (case,) = report["products"]
    assert [row["kernel"] for row in case["rows"]] == ["XLA bfloat16", "xla"]
    assert all(row["seconds"] > 0 for row in case["rows"])
    assert case["copy_bytes_per_second"] > 0
    assert case["met"] == {}  # XLA's product is none of ours
    assert [model["speedup"] > 0 for model in report["models"]] == [True, True]
    assert json.loads(json.dumps(report)) == report
    assert "ragged" in run.summary(report)
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


@pytest.mark.parametrize("kind", exactness.KINDS)
def test_a_reference_is_right_by_the_bound(kind):
    p = exactness.product(5, 72, 320, *kind)
    (row,) = exactness.check((REFERENCE,), [p])
    assert 0 < row["off"] <= 1


def test_targets_are_held_against_the_fastest_kernel():
    fast = dataclasses.replace(REFERENCE, name="ours")
    case = dataclasses.replace(CASES[4].at_most(16), speedup=1e-9, tera=1e9)
    report = time_case(case, (fast, HERE), QUICK, copied=64)
    assert report["against"] == "xla"
    assert report["met"] == {"speedup": True, "tera": False}


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
