"""The page of peers names every test of this folder, and no other."""

import ast
import re
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = (FOLDER.parents[1] / "docs" / "peers.md").read_text(encoding="utf-8")
ITEMS = {*map(str, range(1, 16)), "18", "19"}


def defined():
    """Tests by name, in all other files of the folder."""
    files = [file for file in FOLDER.glob("test_*.py") if file != Path(__file__)]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


def test_every_test_is_on_the_page_and_exists():
    names = defined()
    assert set(re.findall(r"`(test_\w+)`", PAGE)) == set(names)
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_item_has_a_row_and_every_row_a_test():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    body = [row for row in rows if row[0] not in ("#", "---:", "---", "what")]
    assert {row[0] for row in body} >= ITEMS
    assert all("`test_" in row[-1] for row in body)


def test_what_is_said_of_qwix_is_run_against_qwix():
    rows = [line for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)]
    cells = [line.strip("| ").split(" | ") for line in rows]
    said = [row for row in cells if row[2].startswith("Qwix")]
    assert len(said) > 10
    assert all("`test_qwix_" in row[-1] for row in said)
