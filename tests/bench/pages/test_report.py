"""The report of `qpass bench`: what the command prints, writes and ends with, and its page."""

import io
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from qpass.cli.commands import app
from qpass_bench.pages import html, tables
from qpass_bench.running import sweep
from qpass_bench.running.regressions import compare
from tests.bench.running.test_regressions import MACHINE

NOISE = (1.0, 1.01, 0.99, 1.0)
ROOF = {"read": {"1048576": 1e10}, "copy": 5e9, "peak": {"float32": 1e11, "int8": 4e11}}


def row(suite, case, variant, ratio, **more):
    return {
        "suite": suite, "case": case, "sizes": {"m": 1, "k": 8, "n": 16}, "variant": variant,
        "kind": "float" if variant.startswith("float") else "qpass", "kernel": "cpu",
        "planned": [], "bytes": 128, "error": 0.0123, "compile_s": 0.25, "ms": 1.234,
        "ms_range": [1.0, 2.0], "tokens_per_s": 810.4, "gb_per_s": 1.0, "gop_per_s": 2.0,
        "bound": "memory", "of_roofline": 0.456, "best_float32": "float32 [out, in]",
        "ratio": ratio, "ratios": [ratio * f for f in NOISE for _ in range(5)], **more,
    }  # fmt: skip


@pytest.fixture
def report():
    rows = [
        row("products", "<up> M=1", "float32 [out, in]", 1.0),
        row("products", "<up> M=1", "int8 W8A8", 3.21, ratio_bfloat16=2.5),
        row("sweep", "random #0", "int8 W8A8", 0.5),
        row("sweep", "random #1", "int8 W8A8", 0.7, planned=["slow here"]),
        row("sweep", "random #2", "int8 W8A8", 2.0),
    ]
    machine = {**MACHINE, "qpass": "0.1", "memory_gb": 8}
    absent = {"suite": "products", "case": "<up> M=1", "variant": "peer", "why": "too [large]"}
    skipped = {"suite": "products", "case": "huge", "why": "needs 99 GB"}
    return {
        "schema": "1", "date": "2025-01-01", "machine": machine, "rounds": 20, "sittings": 5,
        "roofline": ROOF,
        "rows": rows, "missing": [absent], "skipped": [skipped], "peers": {"Qwix": "0.1.8"},
    }  # fmt: skip


@pytest.fixture
def file(report, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(report))
    return path


def qpass(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def test_the_table_says_everything(file):
    shown = qpass("--results", file).stdout
    for text in ("products: <up> M=1", "float32 [out, in]", "3.21×", "2.50×", "1.23", "46% memory"):
        assert text in shown
    for text in ("peer did not run: too [large]", "huge was skipped: needs 99 GB", "Qwix 0.1.8"):
        assert text in shown
    assert "Products, Gop/s: float32 100, int8 400" in shown


@pytest.mark.parametrize(("ms", "text"), [(0.04151, "0.0415"), (51.93, "51.9"), (3081.0, "3,081")])
def test_times_are_plain_numbers(ms, text):
    assert tables.milliseconds(ms) == text


def test_a_sweep_counts_slow_shapes_that_no_plan_spoke_of(report):
    assert sweep.summary(report["rows"]) == [
        {"variant": "int8 W8A8", "shapes": 3, "least": 0.5, "tenth": 0.5, "median": 0.7,
         "slow": 2, "unsaid": 1, "worst": "random #0"}
    ]  # fmt: skip


@pytest.mark.parametrize(("planned", "status"), [([], 1), (["slow here"], 0)])
def test_the_status_says_whether_a_plan_was_silent(report, tmp_path, planned, status):
    own = [row("sweep", "random #0", "int8 W8A8", 0.5, planned=planned)]
    run = tmp_path / "sweep.json"
    run.write_text(json.dumps({**report, "rows": own}))
    assert qpass("sweep", "--results", run).exit_code == status


def test_json_is_what_was_measured(file, report, tmp_path):
    out = tmp_path / "new" / "copy.json"
    assert json.loads(qpass("--results", file, "--json", "--out", out).stdout) == report
    assert json.loads(out.read_text()) == report


def test_the_page_stands_alone_and_shows_all(report):
    page = html.to_html(report)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.count("data:image/svg+xml;base64,") == 3
    for text in ("&lt;up&gt; M=1", "3.21×", "needs 99 GB", "2 below 0.8×, 1 of these without"):
        assert text in page
    assert "<up>" not in page


def test_the_page_of_the_demo_has_size_against_quality(report):
    variant = {
        "name": "int8", "perplexity": 20.0, "sizes": {"bytes": 1e8},
        "speed": {"decode": {"ratio": 2.0}},
    }  # fmt: skip
    demo = {"model": {"name": "M"}, "text": {"name": "T", "tokens": 4096}, "variants": [variant]}
    assert "Size against quality" in html.to_html(report, demo)


def slower(report, factor):
    rows = [{**r, "ratios": [factor * x for x in r["ratios"]]} for r in report["rows"]]
    return {**report, "rows": rows}


@pytest.mark.parametrize(("factor", "status"), [(0.5, 1), (1.0, 0), (2.0, 0)])
def test_the_status_says_whether_anything_became_slower(file, report, tmp_path, factor, status):
    now = tmp_path / "now.json"
    now.write_text(json.dumps(slower(report, factor)))
    result = qpass("--results", now, "--compare", file)
    assert result.exit_code == status
    verdict = {0.5: "4 regressions", 1.0: "0 regressions, 0", 2.0: "4 improvements"}[factor]
    assert verdict in result.stdout


def test_another_machine_is_an_error(file, report, tmp_path):
    now = tmp_path / "now.json"
    now.write_text(json.dumps({**report, "machine": {**report["machine"], "cores": 64}}))
    result = qpass("--results", now, "--compare", file)
    assert result.exit_code == 2
    assert "cores: 2 then, 64 now" in result.stderr


def test_a_change_is_shown_with_its_p_value(report):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(tables.comparison(compare(report, slower(report, 0.5))))
    assert "-50.0%" in console.export_text()


def test_a_file_that_is_not_there(tmp_path):
    result = qpass("--results", tmp_path / "none.json")
    assert result.exit_code == 2
    assert "Cannot read" in result.stderr
