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


def products_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Timings of products, as `qpass_bench.products.run` returns them; a line below each layer."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Layer")
    table.add_column("M × K × N")
    table.add_column("Variant", style="green")
    table.add_column("Kernel")
    for name in ("Time", "Speed"):
        table.add_column(name, justify="right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(
            *_product(row), end_section=following is None or _shape(row) != _shape(following)
        )
    return table


def _shape(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["layer"], row["m"], row["k"], row["n"]


def _product(row: Mapping[str, Any]) -> tuple[str, ...]:
    layer, m, k, n = _shape(row)
    timing = f"{row['ms']:.3g} ms", f"{row['ratio']:.2f}×"
    return layer, f"{m} × {k} × {n}", row["variant"], row["kernel"], *timing


def transform_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Seconds of transforming, as `qpass_bench.transform.run` returns them."""
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
