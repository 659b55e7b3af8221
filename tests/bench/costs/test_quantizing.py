"""How fast a weight is quantized: what is counted, and that every case can run."""

import jax
import pytest
from rich.console import Console

from qpass.numerics import as_quantizer
from qpass_bench.costs import quantizing
from qpass_bench.costs.quantizing import Case, cases, run
from qpass_bench.running.measure import Timing


def test_cases_are_told_apart_and_name_quantizers():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    for case in cases():
        as_quantizer(case.quantizer)


@pytest.fixture(scope="module")
def report():
    ticks = []
    chosen = (Case("int8"), Case("int4", "g32"), Case("int4", "g32", layout="columns"))
    made = run(chosen, size=64, rounds=2, tick=lambda: ticks.append(1))
    return made | {"ticks": len(ticks)}


def test_bytes_are_those_read_once_and_those_of_codes_and_scales(report):
    floats, codes, scales = 64 * 64 * 4, 64 * 64, 64 * 4
    assert [row["bytes"] for row in report["rows"]] == [
        floats + codes + scales,
        floats + codes // 2 + 2 * scales,
        floats + codes // 2 + 2 * scales,
    ]


def test_every_row_has_its_share_of_the_fastest_stream(report):
    assert len(report["rows"]) == report["ticks"] == 3
    for row in report["rows"]:
        low, high = row["of_optimal_range"]
        assert 0 < low <= row["of_optimal"] <= high
        assert row["rounds"] == 2


def test_the_share_is_that_of_the_time_that_memory_alone_would_take():
    timing = Timing(seconds=(2.0, 4.0, 4.0), baseline=(1.0, 1.0, 1.0))
    # 300 bytes read and 100 written at 100 bytes a second: 4 s are the least; at 400 it is 1 s.
    row = quantizing.row(Case("int8"), 400, timing, bandwidth=(100.0, 100.0, 400.0))
    assert row["of_optimal"] == 1.0
    assert row["of_optimal_range"] == [0.25, 2.0]


def test_the_table_shows_what_was_measured(report, capsys):
    Console(width=100).print(quantizing.table(report))
    printed = capsys.readouterr().out
    assert "int4 g32" in printed
    assert "GB/s" in printed


def test_transposed_weights_have_the_same_codes():
    x = jax.random.normal(jax.random.key(0), (32, 16))
    straight = Case("int8", "g8").function()(x.T)
    turned = Case("int8", "g8", layout="columns").function()(x)
    assert (straight.codes == turned.codes).all()
    assert (straight.scale == turned.scale).all()
