"""Which part of a recipe the error of its gradients comes from.

``python -m qpass_bench.training.parts`` takes the gradients of a batch of the classifier and of the
decoder of `qpass train-demo`, where training starts and at what float has learned, once for each of
`PARTS`: fp8 in the forward products alone, with gradients, in finer scales, beside int8. Prints
mean |difference| / mean |float| as a table, and that of the float gradients of two batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from qpass_bench.training import tasks
from qpass_bench.training.gradients import compared, differences
from qpass_bench.training.recipes import FLOAT, Recipe
from qpass_bench.training.tasks import Task
from qpass_bench.training.trainer import Trainer

E4M3, E5M2 = "fp8_e4m3", "fp8_e5m2"


def _of(weight: str, act: str, grad: str) -> Mapping[str, str]:
    return {"weight": weight, "act": act, "grad": grad}


PARTS: Mapping[str, Mapping[str, str]] = {
    "weights alone": {"weight": E4M3},
    "weights and activations": {"weight": E4M3, "act": E4M3},
    "and gradients in e5m2": _of(E4M3, E4M3, E5M2),
    "and gradients in e4m3": _of(E4M3, E4M3, E4M3),
    "e5m2 in groups of 8": _of(E4M3, E4M3, f"{E5M2} g8"),
    "all by least squares": _of(f"{E4M3} mse", f"{E4M3} mse", f"{E5M2} mse"),
    "all in groups of 32": _of(f"{E4M3} g32", f"{E4M3} g32", f"{E5M2} g32"),
    "all in groups of 16": _of(f"{E4M3} g16", f"{E4M3} g16", f"{E5M2} g16"),
    "all in groups of 8": _of(f"{E4M3} g8", f"{E4M3} g8", f"{E5M2} g8"),
    "all in groups of 4": _of(f"{E4M3} g4", f"{E4M3} g4", f"{E5M2} g4"),
    "int8, gradients in e5m2": _of("int8", "int8", E5M2),
}


def measured(
    task: Task, parts: Mapping[str, Mapping[str, str]] = PARTS
) -> Iterator[tuple[str, float, float]]:
    """Rows: a part, and how far gradients are from float ones at the start and in the end."""
    trainer = Trainer(task, FLOAT)
    ends = trainer.start(seed=0)[0], trainer.run(seed=0).params
    batch, other = (next(task.split.batches(task.batch, seed)) for seed in (0, 1))
    exact = jax.jit(jax.grad(task.loss))
    wanted = [exact(params, *batch) for params in ends]
    pairs = list(zip(ends, wanted, strict=True))

    def row(name: str, found: list[dict[str, Any]]) -> tuple[str, float, float]:
        return name, found[0]["mean"], found[1]["mean"]

    yield row("float, another batch", [compared(exact(p, *other), exactly) for p, exactly in pairs])
    for name, quantizers in parts.items():
        quantized = Trainer(task, Recipe(name, quantizers))
        yield row(name, [differences(quantized, p, batch, exactly) for p, exactly in pairs])


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = {"classifier": tasks.digits, "decoder": tasks.letters}
    parser.add_argument("--task", choices=sorted(known), action="append")
    for name in parser.parse_args().task or known:
        print(f"\n| {name} | at the start | in the end |\n| --- | ---: | ---: |", flush=True)
        for part, start, end in measured(known[name]()):
            print(f"| {part} | {start:.3f} | {end:.3f} |", flush=True)


if __name__ == "__main__":
    main()
