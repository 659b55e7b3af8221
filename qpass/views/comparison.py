"""How far each site's result moved when the program was quantized: a table, JSON and a page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from qpass.errors import PlanError
from qpass.views import document
from qpass.views.bars import Bar, bars
from qpass.views.page import Cell, page, section, table
from qpass.views.units import decibels, percent, plural

FORMAT = "qpass-comparison"
VERSION = 1
_MOST_BARS = 60
_POOR_DB = 20.0  # 10% of relative error: worth a look


@dataclass(frozen=True)
class SiteError:
    """The error of one site: quantized against float, from the same inputs of the program.

    Attributes:
        site: id of the site.
        weight: path of the weight, "" when there is none.
        scheme: as in the plan.
        sqnr_db: signal to quantization noise, 20·log10(‖float‖ / ‖float − quantized‖);
            inf when equal, nan when either side is not finite.
        relative_error: ‖float − quantized‖ / ‖float‖.
    """

    site: str
    weight: str
    scheme: str
    sqnr_db: float
    relative_error: float


def worst_first(errors: Iterable[SiteError]) -> tuple[SiteError, ...]:
    """By SQNR, what is not a number before all else; ties stay in the order of the program."""
    return tuple(sorted(errors, key=lambda e: -math.inf if math.isnan(e.sqnr_db) else e.sqnr_db))


def errors_table(errors: Iterable[SiteError]) -> Table:
    """Worst first, for the terminal."""
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column("Site", overflow="fold")
    drawn.add_column("Weight", overflow="fold", style="dim")
    drawn.add_column("Scheme", style="green")
    drawn.add_column("SQNR", justify="right", no_wrap=True)
    drawn.add_column("Relative error", justify="right", no_wrap=True)
    for error in worst_first(errors):
        drawn.add_row(
            Text(error.site, style="bold"),
            Text(error.weight),
            Text(error.scheme),
            Text(decibels(error.sqnr_db), style="red" if _poor(error) else ""),
            Text(percent(error.relative_error)),
        )
    return drawn


def _poor(error: SiteError) -> bool:
    return not error.sqnr_db >= _POOR_DB


def errors_to_json(errors: Iterable[SiteError]) -> str:
    """Worst first. What is not finite is the text "inf" or "nan": JSON has no number for it."""
    sites = [_plain(asdict(error)) for error in worst_first(errors)]
    return document.write(FORMAT, VERSION, sites=sites)


def _plain(site: dict[str, Any]) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in site.items()
    }


def errors_from_json(text: str) -> tuple[SiteError, ...]:
    """The rows that `errors_to_json` wrote.

    Raises:
        PlanError: the text is not JSON, or not a comparison of this version.
    """
    found = document.read(text, FORMAT, VERSION)
    return tuple(_error(number, site) for number, site in enumerate(found.get("sites", ())))


def _error(number: int, site: Mapping[str, Any]) -> SiteError:
    try:
        sqnr_db, relative = float(site["sqnr_db"]), float(site["relative_error"])
        return SiteError(site["site"], site["weight"], site["scheme"], sqnr_db, relative)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"Write the comparison again: its site {number} is malformed ({error!r})."
        ) from None


def errors_to_html(errors: Iterable[SiteError], title: str = "qpass comparison") -> str:
    """Bars of relative error, worst first, and a sortable table."""
    return page(title, *comparison_sections(worst_first(errors)))


def comparison_sections(errors: Sequence[SiteError]) -> tuple[str, ...]:
    """What `errors_to_html` shows, as sections for a larger page."""
    shown = [error for error in errors if math.isfinite(error.relative_error)][:_MOST_BARS]
    picture = bars([_bar(error) for error in shown], "relative error of each site")
    note = "Relative error of each site's result, quantized against float, worst first."
    if len(shown) < len(errors):
        note += f" {plural(len(errors) - len(shown), 'more site')} in the table."
    columns = ("Site", "Weight", "Scheme", "SQNR", "Relative error")
    return (
        section("Which site hurts", picture, note=note),
        section("Sites", table(columns, [("", _cells(error)) for error in errors])),
    )


def _bar(error: SiteError) -> Bar:
    look = "bad" if _poor(error) else "after"
    value = f"{percent(error.relative_error)}, {decibels(error.sqnr_db)}"
    return Bar(error.site, ((look, error.relative_error),), value)


def _cells(error: SiteError) -> tuple[Cell, ...]:
    look = "number bad" if _poor(error) else "number"
    sqnr = -math.inf if math.isnan(error.sqnr_db) else error.sqnr_db
    relative = math.inf if math.isnan(error.relative_error) else error.relative_error
    return (
        Cell(error.site, look="code"),
        Cell(error.weight, look="code"),
        Cell(error.scheme),
        Cell(decibels(error.sqnr_db), key=_javascript(sqnr), look=look),
        Cell(percent(error.relative_error), key=_javascript(relative), look="number"),
    )


def _javascript(value: float) -> float:
    """Number("inf") is NaN in a page; the largest float sorts the same."""
    return math.copysign(1e308, value) if math.isinf(value) else value
