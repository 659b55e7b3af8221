"""The cost of transforming: measured, counted, drawn, and bounded."""

import time

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from qpass_bench.costs import transform
from qpass_bench.costs.transform import PROGRAMS, RULES, count_equations, growth, run


def test_equations_are_counted_inside_of_loops_and_calls():
    def fn(x):
        return lax.scan(lambda c, _: (jax.jit(jnp.sin)(c) + 1, None), x, None, length=3)[0]

    # scan > (jit > sin, add)
    assert count_equations(jax.make_jaxpr(fn)(1.0)) == 4


def test_rows_are_about_as_large_as_asked_for():
    ticks = []
    rows = run(PROGRAMS[:2], sizes=(10, 100), rounds=2, tick=lambda: ticks.append(1))
    assert len(rows) == len(ticks) == 4
    assert [row["program"] for row in rows] == ["chain", "chain", "decoder", "decoder"]
    assert all(80 <= row["equations"] <= 125 for row in rows[1::2])
    for row in rows:
        low, high = row["transform_s_range"]
        assert 0 < low <= row["transform_s"] <= high
        assert row["sites"] >= 1


def row(program, equations, seconds):
    return {
        "program": program,
        "equations": equations,
        "transform_s": seconds,
        "us_per_equation": seconds / equations * 1e6,
    }


def test_the_exponent_of_growth():
    square = [row("square", n, n**2 * 1e-6) for n in (10, 1_000, 10_000)]
    straight = [row("straight", n, n * 1e-4) for n in (1_000, 10_000)]
    assert growth(square + straight, "square") == pytest.approx(2)
    assert growth(square + straight, "straight") == pytest.approx(1)


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="drawn with the extra `bench`")
    rows = [row("mine", n, n * 1e-4) for n in (10, 1_000, 10_000)]
    transform.plot(rows, tmp_path / "cost.svg")
    text = (tmp_path / "cost.svg").read_text()
    assert "<svg" in text
    assert "mine" in text


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_program_has_quantized_sites(program):
    rows = qpass.transform(program.fn, RULES).plan(*program.arguments(1)).rows
    assert any(row.scheme for row in rows)


def test_ten_thousand_equations_take_less_than_five_seconds():
    params, x = PROGRAMS[0].arguments(1_250)
    q = qpass.transform(PROGRAMS[0].fn, RULES)
    start = time.process_time()  # of this process: the machine may be shared
    plan = q.plan(params, x)
    assert time.process_time() - start < 5
    assert count_equations(plan.program.jaxpr) == 10_000
    assert len(plan.decisions) == 1_250
