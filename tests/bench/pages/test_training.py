"""Tables and page of what a training step costs."""

import io

import pytest
from rich.console import Console

pages = pytest.importorskip("qpass_bench.pages.training", reason="drawn with matplotlib")

ROW = {"case": "decoder", "variant": "int8", "ms": 12.34, "ms_range": [11.0, 20.0]}
REPORT = {
    "machine": {"cpu": "a processor", "cores": 2, "jax": "0.12"},
    "date": "2000-01-01",
    "rounds": 20,
    "rows": [
        {**ROW, "over_float": 0.5, "temporary_bytes": 2_500_000, "peak_bytes": 7_000_000},
        {**ROW, "over_float": 0.5, "temporary_bytes": 2_500_000, "peak_bytes": None},
    ],
    "missing": [{"case": "decoder", "variant": "Qwix int8", "why": "TypeError: no"}],
}


def test_the_page():
    text = pages.steps_section(REPORT)
    assert "| decoder | int8 | 12.3 | 11.0 to 20.0 | 0.50× | 2.5 | 7 |" in text
    assert "| 2.5 |  |" in text
    assert "- decoder, Qwix int8: TypeError: no" in text
    assert "$" not in text


def test_the_table():
    console = Console(file=io.StringIO(), width=120)
    console.print(pages.steps_shown(REPORT))
    text = console.file.getvalue()
    assert "0.50×" in text
    assert "Qwix int8: TypeError: no" in text
