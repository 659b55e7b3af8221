"""Progress bars for long work, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class Stages:
    """Named stages of a run on one console; ``seconds`` fills as they end."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Show a bar for ``total`` steps (a pulse where unknown); yields what to call per step."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        start = time.perf_counter()
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda: progress.advance(task)
            progress.update(task, total=total or 1, completed=total or 1)
        self.seconds[name] = round(time.perf_counter() - start, 2)
