"""`qpass train-demo`: small models trained on real data, in float and by every recipe.

Each task is learned from several seeds by each recipe. What counts is the loss on examples that are
held out, in the end, beside that of float; and how far gradients are from float ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from qpass_bench.running.machine import details
from qpass_bench.running.progress import Stages
from qpass_bench.training import tasks
from qpass_bench.training.gradients import differences
from qpass_bench.training.recipes import RECIPES, Recipe
from qpass_bench.training.tasks import Task
from qpass_bench.training.trainer import Run, Trainer

SCHEMA = "qpass-train-demo/1"
POINTS = 30
"""Of a curve, each the mean of some steps."""
QUICK = (10, 30)
"""Steps of a quick run, by task."""


@dataclass(frozen=True)
class Options:
    """What to run; the defaults take less than ten minutes on two cores."""

    seeds: int = 3
    quick: bool = False
    cache: Path | None = None

    @property
    def count(self) -> int:
        """Seeds of each recipe."""
        return 1 if self.quick else self.seeds


def load(options: Options) -> tuple[Task, ...]:
    """The tasks with their data.

    Raises:
        FetchError: the data could not be had.
    """
    made = tasks.letters(cache=options.cache), tasks.digits(cache=options.cache)
    if not options.quick:
        return made
    return tuple(replace(t, steps=n) for t, n in zip(made, QUICK, strict=True))


def run(
    options: Options,
    console: Console,
    learned: Sequence[Task] | None = None,
    recipes: Sequence[Recipe] = RECIPES,
) -> dict[str, Any]:
    """Train everything; a report ready for JSON. Progress goes to ``console``.

    Raises:
        FetchError: the data could not be had.
    """
    stages, start = Stages(console), time.perf_counter()
    if learned is None:
        with stages.stage("Fetch the data"):
            learned = load(options)
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "machine": details(),
        "options": {**asdict(options), "cache": str(options.cache or "")},
        "tasks": [_task(task, recipes, options.count, stages) for task in learned],
        "seconds": round(time.perf_counter() - start, 1),
        "stages": stages.seconds,
    }


def _task(task: Task, recipes: Sequence[Recipe], seeds: int, stages: Stages) -> dict[str, Any]:
    trainers = [Trainer(task, recipe) for recipe in recipes]
    runs: list[list[Run]] = []
    for trainer in trainers:
        name = f"{task.name}, {trainer.recipe.name}"
        with stages.stage(name, seeds * task.steps) as tick:
            runs.append([trainer.run(seed, tick) for seed in range(seeds)])
    with stages.stage(f"{task.name}, gradients", len(trainers)) as tick:
        ends = trainers[0].start(seed=0)[0], runs[0][0].params
        off = _gradients(trainers, ends, tick)
    float_losses = [each.loss for each in runs[0]]
    return {
        "name": task.name,
        "parameters": task.parameters,
        "examples": len(task.split.train[0]),
        "held_out": len(task.split.held_out[0]),
        "steps": task.steps,
        "batch": task.batch,
        "recipes": [
            _recipe(trainer, own, float_losses, gradients)
            for trainer, own, gradients in zip(trainers, runs, off, strict=True)
        ],
    }


def _gradients(
    trainers: Sequence[Trainer], ends: tuple[Any, Any], tick: Callable[[], None]
) -> list[list[Any]]:
    """Of each recipe that quantizes them, where float started and at what it has learned."""
    task = trainers[0].task
    batch = next(task.split.batches(task.batch, seed=0))
    exact = jax.jit(jax.grad(task.loss))
    wanted = [exact(params, *batch) for params in ends]
    found = []
    for trainer in trainers:
        asked = zip(ends, wanted, strict=True) if trainer.recipe.gradients is not None else ()
        found.append([differences(trainer, p, batch, exactly) for p, exactly in asked])
        tick()
    return found


def _recipe(
    trainer: Trainer, runs: Sequence[Run], float_losses: Sequence[float], gradients: Sequence[Any]
) -> dict[str, Any]:
    recipe = trainer.recipe
    loss = statistics.mean(each.loss for each in runs)
    return {
        "name": recipe.name,
        "rules": [rule.describe() for rule in recipe.rules(trainer.task.path)]
        if recipe.quantizers
        else [],
        "loss": loss,
        "over_float": loss / statistics.mean(float_losses) - 1,
        "each_over_float": [r.loss / f - 1 for r, f in zip(runs, float_losses, strict=True)],
        "within": recipe.within,
        "gradients": gradients[0] if gradients else None,
        "gradients_in_the_end": gradients[1] if gradients else None,
        "gradients_within": recipe.gradients,
        "seconds": statistics.mean(each.seconds for each in runs),
        "runs": [{"loss": each.loss, "curve": thinned(each.curve)} for each in runs],
    }


def thinned(curve: Sequence[float]) -> list[list[float]]:
    """Points of a curve: ``[last step, mean loss]`` of as many steps each."""
    size = max(1, len(curve) // POINTS)
    parts = ((at, curve[at : at + size]) for at in range(0, len(curve), size))
    return [[at + len(part), round(statistics.mean(part), 5)] for at, part in parts]


def missed(report: Mapping[str, Any]) -> list[str]:
    """What is further from float than its recipe allows, in words."""
    found = []
    for task in report["tasks"]:
        for row in task["recipes"]:
            name = f"{task['name']}, {row['name']}"
            if row["within"] is not None and not row["over_float"] <= row["within"]:
                found.append(f"{name}: loss {row['over_float']:+.2%}, allowed {row['within']:.0%}")
            found += [f"{name}: {text}" for text in _far_gradients(row)]
    return found


def _far_gradients(row: dict[str, Any]) -> list[str]:
    ends = {"at the start": row["gradients"], "in the end": row["gradients_in_the_end"]}
    allowed = row["gradients_within"]
    return [
        f"gradients {when} {off['mean']:.3f}, allowed {allowed}"
        for when, off in ends.items()
        if allowed is not None and not off["mean"] < allowed
    ]
