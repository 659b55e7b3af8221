"""The cost of qpass itself: nothing in a compiled call, bounded memory, bytes that are counted."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import qpass
from qpass_bench.costs import calls, on_disk, overhead, peak
from qpass_bench.running import memory

ROOT = Path(__file__).parents[3]


def test_a_program_that_is_kept_float_is_compiled_to_the_same():
    params, x = calls.arguments()
    kept = qpass.transform(calls.forward, calls.KEEP)
    found = calls.instructions(calls.forward, params, x)
    assert found["dot"] + found["fusion"] + found["custom-call"] >= calls.LAYERS
    assert calls.instructions(kept, params, x) == found
    assert calls.top_equations(kept, params, x) == calls.top_equations(calls.forward, params, x)


def test_a_quantized_program_has_other_products_and_nothing_more():
    params, x = calls.arguments()
    quantized = qpass.transform(calls.forward, calls.INT8)
    names = [
        [eqn.primitive.name for eqn in jax.make_jaxpr(fn)(weights, x).eqns]
        for fn, weights in (
            (calls.forward, params),
            (quantized, quantized.quantize(params, x)),
        )
    ]
    plain, rewritten = names
    assert ["jit" if name == "dot_general" else name for name in plain] == rewritten


def test_a_second_call_rewrites_nothing(monkeypatch):
    params, x = calls.arguments()
    kept = jax.jit(qpass.transform(calls.forward, calls.KEEP))
    kept(params, x)
    monkeypatch.setattr(qpass.transformed, "eval_jaxpr", None)
    kept(params, x)


def test_times_are_those_of_a_call():
    ticks = []
    compiled, eager = calls.contestants()
    rows = calls.times(1, tick=lambda: ticks.append(1))
    assert [row["call"] for row in rows] == [*compiled, *eager]
    assert len(ticks) == 2
    assert all(row["us_range"][0] <= row["us"] <= row["us_range"][1] for row in rows)


@pytest.mark.skipif(not memory.supported(), reason="the system does not tell what a process held")
def test_memory_is_that_of_another_process():
    # leaves of 2 MiB: smaller ones may be put where memory was freed before, and count as nothing
    row = peak.measure(peak.Model(leaves=4, width=1024, dtype="bfloat16", mapped=True))
    assert row["leaf_mb"] == 1024 * 1024 * 2 / 1e6
    assert row["stored"] == (1024 * 1024 + 1024 * 4) / (1024 * 1024 * 2)
    assert (row["bound"], row["kept"]) == (5, 4)
    assert row["peak"] > 0


def test_the_bound_is_what_is_held_and_a_leaf():
    donated = peak.figures(peak.Model(leaves=10), leaf=100, stored=25, most=1150)
    kept = peak.figures(peak.Model(leaves=10, donate=False), leaf=100, stored=25, most=1150)
    assert (donated["bound"], donated["peak"], donated["excess"]) == (11, 11.5, 0.5)
    assert (kept["bound"], kept["excess"]) == (13.5, -2)


def test_codes_of_four_bits_are_two_to_a_byte():
    x = jnp.array([[1, -2, 7], [-8, 0, 3]], jnp.int4)
    np.testing.assert_array_equal(on_disk.as_bytes(x), [0xE1, 0x87, 0x30])


def test_files_hold_what_memory_holds_and_a_header_each():
    rows = on_disk.rows(128, ("int8", "int4 g32", "mxfp4"))
    arrays = [1, 2, 2, 2]
    assert [row["disk"] - row["memory"] for row in rows] == [128 * n for n in arrays]


def committed():
    return json.loads((ROOT / "bench/results/overhead-cpu.json").read_text(encoding="utf-8"))


def test_the_committed_run_keeps_what_is_promised():
    report = committed()
    plain, kept, _ = report["programs"]
    assert {**kept, "program": ""} == {**plain, "program": ""}
    large = [row for row in report["memory"] if row["width"] >= 4096 or row["mapped"]]
    assert large
    assert all(row["excess"] < 0.1 for row in large if row["donate"])
    assert {row["rounds"] for row in report["calls"]} == {20}


def test_the_tables_show_every_row(capsys):
    report = committed()
    Console(width=140).print(overhead.shown(report))
    printed = capsys.readouterr().out
    for row in report["calls"]:
        assert row["call"] in printed
    assert "12 × float32, int8, donated" in printed
