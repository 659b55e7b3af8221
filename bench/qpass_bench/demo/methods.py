"""What better ways than rounding are worth: pretrained models whose layers have few bits.

``python -m qpass_bench.demo.methods`` quantizes the layers of SmolLM2 (``--model encoder``: of
MiniLM) to int4 in groups of 64 and to int3 in groups of 32 by every method, and prints JSON: what
the model is worth, time, and how much of what rounding loses is left,
``(method - float) / (rounding - float)``. Data for the methods are others than those to judge on.
Rows are added to those that the file ``--out`` has.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

import qpass
from qpass_bench.demo.options import Options
from qpass_bench.demo.subjects import SUBJECTS, Subject
from qpass_bench.running.measure import machine
from qpass_bench.running.progress import Stages

SCHEMES = ("int4 g64", "int3 g32")
NOISE = 0.01
"""A loss below this part of a figure says nothing."""
ALPHAS = (0.0, 0.15, 0.3, 0.5)


@dataclass(frozen=True)
class Method:
    """A way to quantize: what a rule says, and the call that does it.

    Attributes:
        name: for tables.
        range: words of the quantizer after type and groups.
        run: of the transformed function and the subject, the stored tree.
    """

    name: str
    range: str
    run: Callable[[Any, Subject], Any]


def _rounded(q: Any, subject: Subject) -> Any:
    return q.quantize(subject.params, *subject.data[0])


def _searched(q: Any, subject: Subject) -> Any:
    stats = q.calibrate(subject.params, subject.data, gather=("square",))
    return q.quantize(subject.params, *subject.data[0], stats=stats)


def _gptq(q: Any, subject: Subject) -> Any:
    return q.quantize(subject.params, method=qpass.GPTQ(), batches=subject.data)


def _folded(q: Any, subject: Subject) -> Any:
    """AWQ's factors, searched scales, GPTQ's codes."""
    params, data = subject.params, subject.data
    stats = q.calibrate(params, data, gather=("square",))
    folds = q.folds(params, *data[0])
    params = qpass.folds.awq(q, folds, params, stats, *data[-1], alphas=ALPHAS)
    return q.quantize(params, method=qpass.GPTQ(), batches=data)


METHODS = (
    Method("rounding", "", _rounded),
    Method("HQQ", "hqq", _rounded),
    Method("by importance", "", _searched),
    Method("GPTQ", "", _gptq),
    Method("AWQ, GPTQ", "", _folded),
)


def run(
    subject: Subject,
    schemes: Sequence[str],
    methods: Sequence[Method],
    report: dict[str, Any],
    stages: Stages,
) -> Iterator[dict[str, Any]]:
    """The report with a model's rows, after each scheme and method."""
    own = report.setdefault(subject.name, {"machine": machine(), **subject.about})
    floats = own["float32"] = subject.judge(subject.params)
    with stages.stage("Quantize and judge", len(schemes) * len(methods)) as tick:
        for scheme, method in product(schemes, methods):
            row = _row(method, scheme, subject)
            plain = own.setdefault(scheme, {}).setdefault(METHODS[0].name, row)
            own[scheme][method.name] = row | {"left": _left(row, plain, floats)}
            tick()
            yield report


def _row(method: Method, scheme: str, subject: Subject) -> dict[str, Any]:
    rule = qpass.Rule(path=subject.path, weight=f"{scheme} {method.range}".strip())
    q = qpass.transform(subject.fn, [rule])
    start, before = time.perf_counter(), time.process_time()
    stored = jax.block_until_ready(method.run(q, subject))
    seconds, busy = time.perf_counter() - start, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = subject.judge(_floats(stored))
    return {"seconds": seconds, "cpu seconds": busy, "peak MiB": peak, "found": found}


def _floats(tree: Any) -> Any:
    """The values that codes stand for: all methods are judged with one compiled float program."""

    def is_stored(leaf: Any) -> bool:
        return isinstance(leaf, qpass.QTensor)

    return jax.tree.map(
        lambda leaf: leaf.dequantize() if is_stored(leaf) else leaf, tree, is_leaf=is_stored
    )


def _left(row: dict, plain: dict, floats: dict[str, float]) -> dict[str, float | None]:
    """What is left of rounding's loss, by figure; None where that is none to speak of."""
    left = {}
    for name, wanted in floats.items():
        lost, whole = (one["found"][name] - wanted for one in (row, plain))
        left[name] = lost / whole if abs(whole) > NOISE * abs(wanted) else None
    return left


def _known(path: Path | None) -> dict[str, Any]:
    """The rows that a file has."""
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}


def main() -> None:
    """Measure, write after each row, and print."""
    names = [method.name for method in METHODS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=tuple(SUBJECTS), default="decoder")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, help="words of a weight's rule")
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    parser.add_argument("--windows", type=int, default=2, help="of 512 tokens, to judge on")
    parser.add_argument("--data", type=int, default=8, help="windows or batches for the methods")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    given = parser.parse_args()
    options, stages = Options(windows=given.windows), Stages(Console(stderr=True))
    report = _known(given.out)
    subject = SUBJECTS[given.model](options, given.data, stages)
    methods = [method for method in METHODS if method.name in given.methods]
    for now in run(subject, given.schemes, methods, report, stages):
        if given.out:
            given.out.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
