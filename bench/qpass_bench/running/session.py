"""A run of the benchmark from what was asked for to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qpass.errors import QPassError
from qpass_bench.cases import catalogue as every
from qpass_bench.cases.catalogue import Case
from qpass_bench.running import runner
from qpass_bench.running.guests import Guests
from qpass_bench.running.worker import Peer, installed

QUICK_ROUNDS = 5


@dataclass(frozen=True)
class Asked:
    """What to run, as `qpass bench` takes it."""

    suite: str = "products"
    pattern: str = ""
    quick: bool = False
    rounds: int = 20
    sittings: int = 5
    longest: float = 1.0
    shapes: int = 200
    seed: int = 0
    peers: Path | None = None

    @property
    def settings(self) -> runner.Settings:
        """How to run the cases."""
        if self.quick:
            return runner.Settings(min(self.rounds, QUICK_ROUNDS), 1, self.longest)
        return runner.Settings(self.rounds, self.sittings, self.longest)


def cases(asked: Asked) -> tuple[Case, ...]:
    """The cases of a suite that were asked for.

    Raises:
        QPassError: there are none.
    """
    suites = {
        "products": every.products,
        "blocks": every.blocks,
        "models": every.models,
        "sweep": lambda: every.sweep(asked.shapes, asked.seed),
    }
    names = [name for name in suites if name != "sweep"] if asked.suite == "all" else [asked.suite]
    found = [case for name in names for case in suites[name]()]
    kept = every.chosen(found, asked.pattern, asked.quick and asked.suite != "sweep")
    if not kept:
        known = ", ".join(dict.fromkeys(case.name.split()[0] for case in found))
        raise QPassError(f"No case of {asked.suite} fits {asked.pattern!r}: {known}.")
    return kept


def run(
    asked: Asked, chosen: Sequence[Case], tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Run the cases with the peers that are there; a report ready for JSON."""
    with Guests().invite(peers(asked)) as guests:
        report = runner.run(chosen, asked.settings, guests.taking_part, tick)
    options = {**asdict(asked), "peers": str(asked.peers or "")}
    return {**report, "options": options, "peers": guests.about}


def peers(asked: Asked) -> tuple[Peer, ...]:
    """Peers in environments of their own, where a list of them is."""
    return installed(asked.peers) if asked.peers and asked.peers.is_file() else ()
