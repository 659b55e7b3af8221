"""The parts of a self-contained HTML page. Every piece of text given to them is escaped here."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files


@dataclass(frozen=True)
class Cell:
    """A table cell: a head line, dim lines below, and what a click on the column sorts by.

    Attributes:
        head: the first line.
        below: further lines, smaller and dim.
        key: what the column sorts by; the head when None.
        look: CSS classes from `assets/page.css`: `number`, `quantized`, `reason`, `code`.
    """

    head: str
    below: tuple[str, ...] = ()
    key: float | None = None
    look: str = ""


def page(title: str, *sections: str) -> str:
    """A whole document with its style and script inside; it asks the network for nothing."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # else a browser asks for /favicon.ico
            f"<title>{escape(title)}</title>",
            f"<style>\n{_asset('page.css')}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            *sections,
            f"</main><script>\n{_asset('page.js')}</script></body></html>\n",
        )
    )


def _asset(name: str) -> str:
    return files("qpass.views").joinpath("assets", name).read_text(encoding="utf-8")


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading, an optional dim line, and parts that are HTML already."""
    remark = f'<p class="dim">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{remark}{''.join(parts)}</section>"


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """(figure, what it counts) pairs as a row of large numbers."""
    each = (
        f"<div><strong>{escape(figure)}</strong><span>{escape(what)}</span></div>"
        for figure, what in figures
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def facts(lines: Iterable[str]) -> str:
    """A list of plain lines, or nothing when there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="facts">{items}</ul>' if items else ""


def table(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], kinds: Sequence[str] = ()
) -> str:
    """A table that sorts by a click on a column and is filtered by text and by kind.

    Args:
        columns: headings.
        rows: (kind, cells) pairs; the kind is one of `kinds`, or "".
        kinds: kinds of row that can be hidden, each with a check box.
    """
    head = "".join(f'<th><button type="button">{escape(name)}</button></th>' for name in columns)
    body = "".join(
        f'<tr data-kind="{escape(kind)}">{"".join(map(_cell, cells))}</tr>' for kind, cells in rows
    )
    boxes = "".join(
        f'<label><input type="checkbox" value="{escape(kind)}" checked> {escape(kind)}</label>'
        for kind in kinds
    )
    return (
        '<div class="table"><div class="controls">'
        '<input type="search" placeholder="filter" aria-label="filter rows">'
        f'{boxes}<output></output></div><div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _cell(cell: Cell) -> str:
    key = "" if cell.key is None else f' data-key="{cell.key}"'
    look = f' class="{escape(cell.look)}"' if cell.look else ""
    below = "".join(f"<small>{_breakable(line)}</small>" for line in cell.below if line)
    return f"<td{key}{look}>{_breakable(cell.head)}{below}</td>"


def _breakable(text: str) -> str:
    """Escaped, and free to break after the slashes of a path, which a copy then lacks."""
    return re.sub(r"(?<=[^\s\d]/)(?=\w)", "<wbr>", escape(text))
