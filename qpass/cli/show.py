"""What the commands draw that nothing else does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


@contextmanager
def progress_bar(name: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """A bar of `total` steps while the block runs; yields what to call after each."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)


def transform_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Seconds of transforming, as `qpass_bench.costs.transform.run` returns them."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Program")
    for name in ("Equations", "Sites", "Trace", "Transform", "Fastest to slowest", "Per equation"):
        table.add_column(name, justify="right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last = following is None or row["program"] != following["program"]
        table.add_row(*_transform(row), end_section=last)
    return table


def _transform(row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["transform_s_range"]
    return (
        row["program"],
        f"{row['equations']:,}",
        f"{row['sites']:,}",
        f"{row['trace_s']:.3f} s",
        f"{row['transform_s']:.3f} s",
        f"{low:.3f} to {high:.3f} s",
        f"{row['us_per_equation']:,.0f} µs",
    )
