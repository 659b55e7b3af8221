"""Round-trip errors: against published figures and formulas written out, and their page."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import as_quantizer
from qpass.numerics.range_text import WORDS
from qpass_bench.costs import roundtrip
from qpass_bench.costs.roundtrip import Grid, errors, normal, relative_error, with_outliers
from qpass_bench.pages import numerics

RESULTS = Path(__file__).parents[3] / "bench" / "results"
SMALL = Grid(
    types=(qpass.int8, qpass.int4, qpass.fp8_e4m3),
    ranged=("int4",),
    ranges=("",),
    published={"int8": 0.00847},
)


def test_the_error_is_relative_to_the_mean_magnitude_of_all_arrays():
    exact = [np.array([1.0, -3.0]), np.array([4.0])]
    stored = [np.array([1.5, -3.0]), np.array([3.5])]
    assert relative_error(exact, stored) == 1 / 8


def test_outliers_are_one_in_a_thousand():
    larger = with_outliers() != normal()
    assert larger.mean() == pytest.approx(1e-3, rel=0.2)
    assert with_outliers()[larger] == pytest.approx(50 * normal()[larger])


@pytest.mark.parametrize("text", roundtrip.PUBLISHED)
def test_published_errors_are_met_in_the_dialect_they_come_from(text):
    found = errors(as_quantizer(text).in_dialect("qwix"), {"normal": [normal()]})
    assert found["normal"] == pytest.approx(roundtrip.PUBLISHED[text], rel=0.01)


def test_rounding_quotients_instead_of_products_would_change_nothing_to_speak_of():
    x = normal().astype(np.float64)
    scale = np.asarray(
        qpass.numerics.quantize(jnp.asarray(normal()), as_quantizer("int8"), (1,)).scale
    )
    divided = np.clip(np.rint(x / scale), -128, 127) * scale
    found = errors(as_quantizer("int8"), {"normal": [normal()]})
    assert found["normal"] == pytest.approx(relative_error([x], [divided]), rel=1e-3)


@pytest.fixture(scope="module")
def report():
    data = {name: [normal()[:16]] for name in numerics.DATA}
    ticks = []
    made = roundtrip.report(data, SMALL, lambda: ticks.append(1))
    assert len(ticks) == SMALL.steps
    return made


def test_every_type_has_a_cell_for_each_granularity_and_kind_of_data(report):
    for row in report["types"]:
        assert list(row["cells"]) == list(roundtrip.GRANULARITIES)
        for cell in row["cells"].values():
            assert cell["bits"] >= 4
            assert 0 < cell["normal"] == cell["outliers"] == cell["weights"] < 0.3


def test_every_range_has_a_row():
    shown = [row["range"].partition(",")[0] for row in _result("roundtrip")["ranges"]]
    assert set(shown) == set(WORDS) - {"delayed", "most_recent"}  # of earlier arrays, not of this
    assert [row["range"] for row in _result("roundtrip")["ranges"]] == list(roundtrip.RANGES)


def _result(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_the_page_shows_every_figure(report):
    page = numerics.page(report, _result("demo-cpu"))
    assert "$" not in page
    for row in report["types"]:
        assert f"| {row['type']} |" in page
        assert all(f"{cell['normal']:.5f}" in page for cell in row["cells"].values())


def test_the_committed_page_shows_the_committed_figures():
    page = (RESULTS.parents[1] / "docs" / "numerics.md").read_text(encoding="utf-8")
    results = map(_result, ("roundtrip", "demo-cpu"))
    assert page == numerics.page(*results)


def test_no_other_dialect_has_a_smaller_error_in_the_committed_figures():
    for row in _result("roundtrip")["dialects"]:
        found = {name: error for name, error in row["cells"].items() if error is not None}
        assert found["qpass"] == min(found.values())
        assert found["qwix"] == pytest.approx(row["published"], rel=0.01)


def test_the_plot_is_a_small_text_file_that_does_not_change(report, tmp_path):
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    numerics.plot(report, first)
    numerics.plot(report, second)
    assert first.read_bytes() == second.read_bytes()
    assert "fp8_e4m3" in first.read_text(encoding="utf-8")
    assert first.stat().st_size < 200_000
