"""Generated pages say what the committed measurements say."""

import json
from pathlib import Path

from qpass_bench.costs import transform
from qpass_bench.pages import performance

ROOT = Path(__file__).parents[3]


def result(name):
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_performance_page_is_the_committed_run():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    results = performance.read(ROOT / "bench" / "results")
    assert page == performance.performance(results)
    assert all((ROOT / "docs" / name).is_file() for name in performance.files(results))


def test_committed_run_keeps_its_promises():
    _, int8, int4 = result("demo-cpu")["variants"]
    assert int8["perplexity_ratio"] <= 1.02
    assert int4["perplexity_ratio"] <= 1.45
    assert int8["sizes"]["quantized"]["int8"]["ratio"] <= 0.30
    assert int4["sizes"]["quantized"]["int4"]["ratio"] <= 0.20
    assert int8["speed"]["decode"]["ratio"] >= 2
    assert min(int8["speed"][key]["ratio"] for key in ("prefill_128", "prefill_512")) >= 1


def test_committed_cost_of_transforming_is_linear_and_below_five_seconds():
    rows = result("transform-cpu")["rows"]
    assert max(row["equations"] for row in rows) >= 10_000
    assert max(row["transform_s_range"][1] for row in rows) < 5
    for program in {row["program"] for row in rows}:
        assert transform.growth(rows, program) < 1.1


def test_held_out_texts_stay_within_the_same_bounds():
    for name, variants in result("heldout-cpu").items():
        if " " in name:
            assert variants["int8 W8A8"]["ratio"] <= 1.02
            assert variants["int4 W4A16 g32"]["ratio"] <= 1.45
