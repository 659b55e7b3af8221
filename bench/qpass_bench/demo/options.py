"""What the demo can be told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What to run; the defaults take a few minutes on two cores."""

    out: Path = Path("reports")
    question: str = "Explain what a compiler does in one sentence."
    windows: int = 8
    window: int = 512
    steps: int = 40
    rounds: int = 3
    encoder: bool = False
    seed: int = 0
    cache: Path | None = None


def quick(options: Options) -> Options:
    """The same run in little: too few tokens and rounds to quote."""
    return replace(options, windows=2, steps=16, rounds=1)
