"""Public-domain text to evaluate on: the King James Bible, read without running its package."""

from __future__ import annotations

import ast
import re
from itertools import islice
from pathlib import Path

RUTH = 8
"""Where the evaluation starts: the eighth book, narrative prose."""


def verses(path: Path) -> dict[int, str]:
    """The verses of a ``pythonbible_*`` module by id (``BBCCCVVV``), read from its syntax tree.

    The module holds one call ``Bible(version, text, starts, ends)`` of literals; verse numbers and
    the brackets around words that the translators added are removed.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    call = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    if not isinstance(call, ast.Call):
        raise ValueError(f"{path} assigns no call; it is not a pythonbible module.")
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    return {verse: _clean(text[starts[verse] : ends[verse]]) for verse in starts}


def _clean(verse: str) -> str:
    unnumbered = re.sub(r"^\d+\.\s*", "", verse.strip())
    return re.sub(r"\s+", " ", unnumbered).replace("[", "").replace("]", "")


def passage(bible: dict[int, str], book: int = RUTH, count: int = 500) -> str:
    """``count`` verses in a row from the beginning of ``book``."""
    chosen = (bible[verse] for verse in sorted(bible) if verse >= book * 1_000_000)
    return " ".join(islice(chosen, count))
