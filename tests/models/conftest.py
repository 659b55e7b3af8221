"""The model under test, and the page of models: what this run found, one line a model."""

from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.models.checks")
LINE = "model"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--page", type=Path, help="write the table of models to this Markdown file")


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Keep the tests of a model on one worker, which compiles it once."""
    for item in items:
        if "model" in getattr(item, "fixturenames", ()) and hasattr(item, "callspec"):
            item.add_marker(pytest.mark.xdist_group(item.callspec.id))


@pytest.fixture(scope="class")
def model(request: pytest.FixtureRequest) -> Any:
    """The `Model` that a function of a test file's list builds."""
    return request.param()


@pytest.fixture
def models_page(record_property: Callable) -> Callable[[dict[str, Any]], None]:
    """Put a model's line on the page; it travels with the test's report, also from a worker."""
    return lambda line: record_property(LINE, line)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    lines = [value for r in reports for name, value in r.user_properties if name == LINE]
    page = config.getoption("--page", default=None)
    if page is None or not lines:
        return
    template = Path(__file__).with_name("page.md").read_text(encoding="utf-8")
    page.write_text(Template(template).substitute(table=_table(lines)), encoding="utf-8")
    terminalreporter.write_line(f"{len(lines)} models written to {page}")


def _table(lines: Iterable[dict[str, Any]]) -> str:
    rows = sorted(_row(**line) for line in lines)
    head = ["| package | model | products found | quantized | left in float | error | as drawn |"]
    rule = ["| --- | --- | ---: | ---: | --- | ---: | ---: |"]
    return "\n".join(head + rule + rows)


def _row(
    package: str,
    model: str,
    found: int,
    quantized: int,
    left: dict,
    error: float,
    drawn_error: float | None,
) -> str:
    reasons = "; ".join(f"{count}: {reason}" for reason, count in sorted(left.items()))
    drawn = "" if drawn_error is None else f"{drawn_error:.2%}"
    return f"| {package} | {model} | {found} | {quantized} | {reasons} | {error:.2%} | {drawn} |"
