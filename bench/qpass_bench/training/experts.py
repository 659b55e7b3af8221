"""`qpass bench experts`: a mixture of experts trained on a book, judged with quantized experts.

It is trained in float once; then its experts are quantized by several rules, stored, and judged on
text that is held out. The same model is trained by recipes that quantize the backward products of
the experts as well. What is asked: perplexity within a hundredth of float's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from qpass_bench.running.machine import details
from qpass_bench.running.progress import Stages
from qpass_bench.training import tasks
from qpass_bench.training.recipes import FLOAT, FP8, INT8, Recipe
from qpass_bench.training.tasks import Task
from qpass_bench.training.trainer import Run, Trainer

SCHEMA = "qpass-bench-experts/1"
WITHIN = 0.01
"""How far perplexity may be from float's, as a part of it."""
QUICK = 10
"""Steps of a quick run."""
RAGGED = "ragged_dot_general"


def _served(name: str, weight: str, act: str = "", op: str | None = "ragged_dot") -> Recipe:
    """Rules for the products of experts alone, or of whole layers, whose weights are stored."""
    quantizers = {"weight": weight} | ({"act": act} if act else {})
    return Recipe(name, quantizers, WITHIN, converts=True, op=op)


SERVED = (
    _served("int8 experts", "int8", "int8"),
    _served("fp8 experts", "fp8_e4m3", "fp8_e4m3"),
    _served("int8 experts, weights alone", "int8"),
    _served("int8 layers", "int8", "int8", op=None),
    _served("fp8 layers", "fp8_e4m3", "fp8_e4m3", op=None),
)
TRAINED = (INT8, FP8)


def run(
    console: Console,
    quick: bool = False,
    task: Task | None = None,
    served: Sequence[Recipe] = SERVED,
    trained: Sequence[Recipe] = TRAINED,
) -> dict[str, Any]:
    """Train and judge; a report ready for JSON. Progress goes to ``console``.

    Raises:
        FetchError: the book could not be had.
    """
    stages, start = Stages(console), time.perf_counter()
    if task is None:
        with stages.stage("Fetch the book"):
            task = tasks.experts()
        task = replace(task, steps=QUICK) if quick else task
    trainer = Trainer(task, FLOAT)
    with stages.stage("train in float", task.steps) as tick:
        learned = trainer.run(seed=0, tick=tick)
    with stages.stage("quantize and judge", len(served)) as tick:
        rows = [_judged(Trainer(task, recipe), learned, tick) for recipe in served]
    for recipe in trained:
        own = Trainer(task, recipe)
        with stages.stage(f"train in {recipe.name}", task.steps) as tick:
            loss = own.run(seed=0, tick=tick).loss
        rows.append(_row(f"trained in {recipe.name}", own, learned, loss))
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "machine": details(),
        "name": task.name,
        "parameters": task.parameters,
        "steps": task.steps,
        "batch": task.batch,
        "held_out": len(task.split.held_out[0]),
        "perplexity": math.exp(learned.loss),
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "stages": stages.seconds,
    }


def _judged(trainer: Trainer, learned: Run, tick: Callable[[], None]) -> dict[str, Any]:
    """What was learned in float, quantized as it would be served."""
    loss = trainer.held_out(None, learned.params)
    tick()
    return _row(trainer.recipe.name, trainer, learned, loss)


def _row(name: str, trainer: Trainer, learned: Run, loss: float) -> dict[str, Any]:
    """What a table says of rules, and of the plan that comes of them."""
    (batch,) = trainer.task.split.held_out
    plan = trainer.quantized.plan(learned.params, batch[:1])
    experts = [row for row in plan.rows if row.op == RAGGED]
    routers = {row.reason for row in plan.rows if row.weight == "layers/router"}
    return {
        "name": name,
        "rules": [rule.describe() for rule in plan.rules],
        "perplexity": math.exp(loss),
        "over_float": math.exp(loss - learned.loss) - 1,
        "within": WITHIN,
        "experts": sum(bool(row.kernel) for row in experts),
        "experts_in_all": len(experts),
        "bytes_before": sum(row.bytes_before for row in experts),
        "bytes_after": sum(row.bytes_after for row in experts),
        "router": "; ".join(sorted(routers)),
    }


def missed(report: Mapping[str, Any]) -> list[str]:
    """What is further from float than was asked, or left products of experts in float."""
    far = [
        f"{row['name']}: perplexity {row['over_float']:+.2%}, allowed {row['within']:.0%}"
        for row in report["rows"]
        if not abs(row["over_float"]) <= row["within"]
    ]
    left = [
        f"{row['name']}: {row['experts']} of {row['experts_in_all']} products of experts quantized"
        for row in report["rows"]
        if row["experts"] != row["experts_in_all"]
    ]
    return far + left
