"""The examples of the extension pages run, and the pages show them as they are."""

import re
import runpy
from pathlib import Path

import pytest

from tests.helpers import with_compiled_kernels

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
OUTPUT = re.compile(r"<!-- output: (\S+), ([\w ]+) -->\n+```text\n(.*?)\n```", re.DOTALL)
FRAMEWORKS = ("equinox", "haiku")  # qpass never imports them
MARK = re.compile(r"<!-- example: (\S+) -->\n+```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    try:
        runpy.run_path(str(path))
    except ModuleNotFoundError as error:
        if error.name not in FRAMEWORKS:
            raise
        pytest.skip(f"shows qpass with {error.name}, which is not installed")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_page_shows_the_example(path):
    shown = {
        name: code
        for page in DOCS.glob("*.md")
        for name, code in MARK.findall(page.read_text(encoding="utf-8"))
    }
    assert shown.get(path.name) == path.read_text(encoding="utf-8")


@with_compiled_kernels
def test_pages_show_what_examples_print():
    shown = [
        (page.name, *match)
        for page in DOCS.glob("*.md")
        for match in OUTPUT.findall(page.read_text(encoding="utf-8"))
    ]
    assert "diagnostics.md" in {page for page, *_ in shown}
    outputs = runpy.run_path(str(DOCS / "build.py"))["outputs"]
    for page, example, heading, text in shown:
        assert outputs(example)[heading] == text, page
    said = {heading for _, example, heading, _ in shown if example == "diagnostics.py"}
    assert said == set(outputs("diagnostics.py"))
