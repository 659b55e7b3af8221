"""A run of the benchmark from what was asked for to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qpass.errors import QPassError
from qpass_bench.cases import catalogue as every
from qpass_bench.cases.catalogue import Case
from qpass_bench.cases.sweep import sweep
from qpass_bench.running import runner
from qpass_bench.running.guests import Guests
from qpass_bench.running.isa import cap
from qpass_bench.running.runner import Settings
from qpass_bench.running.worker import Peer, installed

QUICK_ROUNDS = 5
DEFAULTS = {
    "products": Settings(rounds=20, sittings=5),
    "blocks": Settings(rounds=20, sittings=2),
    "models": Settings(rounds=10, sittings=1, longest=2.0),  # minutes until all are set up
    "all": Settings(rounds=20, sittings=5),
    "sweep": Settings(rounds=7, sittings=1, again=21),
}
"""How a suite is run where nothing else is asked for."""


@dataclass(frozen=True)
class Asked:
    """What to run, as `qpass bench` takes it; None: what the suite has by default."""

    suite: str = "products"
    pattern: str = ""
    only: str = ""
    quick: bool = False
    rounds: int | None = None
    sittings: int | None = None
    longest: float | None = None
    shapes: int = 200
    seed: int = 0
    peers: Path | None = None
    isa: str | None = None

    @property
    def settings(self) -> Settings:
        """How to run the cases."""
        asked = {"rounds": self.rounds, "sittings": self.sittings, "longest": self.longest}
        given = {name: value for name, value in asked.items() if value is not None}
        found = replace(DEFAULTS[self.suite], only=self.only, **given)
        if self.quick:
            return replace(found, rounds=min(found.rounds, QUICK_ROUNDS), sittings=1)
        return found


def cases(asked: Asked) -> tuple[Case, ...]:
    """The cases of a suite that were asked for.

    Raises:
        QPassError: there are none.
    """
    suites = {
        "products": every.products,
        "blocks": every.blocks,
        "models": every.models,
        "sweep": lambda: sweep(asked.shapes, asked.seed),
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
    """Run the cases with the peers that are there; a report ready for JSON.

    With a cap on instructions it must be the first in its process that computes anything.
    """
    if asked.isa:
        cap(asked.isa)
    with Guests() as guests:
        if asked.suite != "sweep":  # which is about what plans say of qpass
            guests.invite(peers(asked))
        report = runner.run(chosen, asked.settings, guests.taking_part, tick)
    if asked.only and {row["variant"] for row in report["rows"]} <= runner.ALWAYS:
        raise QPassError(f"Nobody but float32 whom {asked.only!r} fits took part.")
    options = {**asdict(asked), "peers": str(asked.peers or "")}
    return {**report, "options": options, "peers": guests.about}


def peers(asked: Asked) -> tuple[Peer, ...]:
    """Peers in environments of their own, where a list of them is, and no cap that none knows."""
    there = asked.peers and asked.peers.is_file() and not asked.isa
    return installed(asked.peers) if asked.peers and there else ()
