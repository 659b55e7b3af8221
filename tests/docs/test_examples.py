"""The examples of the extension pages run, and the pages show them as they are."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
MARK = re.compile(r"<!-- example: (\S+) -->\n+```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    runpy.run_path(str(path))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_page_shows_the_example(path):
    shown = {
        name: code
        for page in DOCS.glob("*.md")
        for name, code in MARK.findall(page.read_text(encoding="utf-8"))
    }
    assert shown.get(path.name) == path.read_text(encoding="utf-8")
