"""Markdown: tables, and pages with places for what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template


def template(name: str) -> Template:
    """A page with places for what was measured."""
    text = (
        files("qpass_bench.pages").joinpath("templates", f"{name}.md").read_text(encoding="utf-8")
    )
    return Template(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows)) + "\n"
