"""A plan as JSON, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from qpass.errors import PlanError
from qpass.views import document
from qpass.views.row import Row
from qpass.views.summary import Summary, summarize

FORMAT = "qpass-plan"
VERSION = 1


def to_json(rows: Sequence[Row], remarks: Sequence[str] = ()) -> str:
    """The rows and their sums; keys are those of `Row` and `Summary`, in that order.

    `remarks` are lines on what concerns no single site.
    """
    sites = [asdict(row) for row in rows]
    summary = {**_sums(summarize(rows)), "remarks": list(remarks)}
    return document.write(FORMAT, VERSION, summary=summary, sites=sites)


def _sums(summary: Summary) -> dict[str, Any]:
    """The summary with a name for each number in it."""
    rules = [dict(zip(("rule", "text", "sites"), each, strict=True)) for each in summary.rules]
    refused = [
        dict(zip(("kernel", "reason", "sites"), each, strict=True)) for each in summary.refused
    ]
    counts = {"schemes": dict(summary.schemes), "reasons": dict(summary.reasons)}
    return {**asdict(summary), **counts, "rules": rules, "refused": refused}


def from_json(text: str) -> tuple[Row, ...]:
    """The rows that `to_json` wrote; sums are recomputed, never read.

    Raises:
        PlanError: the text is not JSON, not a plan, of another version, or has a site with
            missing, unknown or malformed fields.
    """
    found = document.read(text, FORMAT, VERSION)
    return tuple(_row(number, site) for number, site in enumerate(found.get("sites", ())))


def _row(number: int, site: Mapping[str, Any]) -> Row:
    expected = {field.name for field in fields(Row)}
    if set(site) != expected:
        wrong = ", ".join(sorted(expected ^ set(site)))
        raise PlanError(f"Write the plan again: its site {number} lacks or adds fields: {wrong}.")
    texts = {name: tuple(site[name]) for name in ("notes", "operands_from")}
    return Row(**{**site, **texts, "refused": _pairs(number, site["refused"])})


def _pairs(number: int, refused: Any) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((str(kernel), str(why)) for kernel, why in refused)
    except (TypeError, ValueError):
        raise PlanError(
            f"Site {number} of the plan: `refused` is a list of [kernel, reason], got {refused!r}."
        ) from None
