"""Train a task by a recipe: the user's own step, with the loss or its gradient transformed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import optax

import qpass
from qpass_bench.training.recipes import Recipe
from qpass_bench.training.tasks import Task

JUDGED_AT_ONCE = 128


@dataclass(frozen=True)
class Run:
    """How a training went.

    Attributes:
        curve: the loss of the batch of each step.
        loss: of the examples that are held out, in the end.
        seconds: of all steps.
        params: in the end.
        state: of delayed scaling; None where there is none.
    """

    curve: tuple[float, ...]
    loss: float
    seconds: float
    params: Any
    state: Any


@dataclass(frozen=True)
class Trainer:
    """A task and a recipe; what is compiled serves all seeds."""

    task: Task
    recipe: Recipe

    @cached_property
    def quantized(self) -> Any:
        """The loss as the recipe has it; the task's own for float."""
        if not self.recipe.quantizers:
            return self.task.loss
        return qpass.transform(self.task.loss, self.recipe.rules(self.task.path))

    @cached_property
    def differentiate(self) -> Callable[..., Any]:
        """``(state, params, *batch) -> (loss, gradients, state)``."""
        if not self.recipe.delayed:
            plain = jax.value_and_grad(self.quantized)
            return lambda state, params, *batch: (*plain(params, *batch), state)
        step = qpass.value_and_grad(self.quantized)

        def delayed(state: Any, params: Any, *batch: Any) -> Any:
            (loss, gradients), state = step.apply(state, params, *batch)
            return loss, gradients, state

        return delayed

    def state(self, params: Any, *batch: Any) -> Any:
        """Of delayed scaling, before the first step; None without."""
        if not self.recipe.delayed:
            return None
        return qpass.value_and_grad(self.quantized).init_state(params, *batch)

    @cached_property
    def step(self) -> Any:
        """``(params, optimizer, state, *batch) -> (params, optimizer, state, loss)``, compiled."""
        optimizer = self.task.optimizer

        @partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(params: Any, moments: Any, state: Any, *batch: Any) -> Any:
            loss, gradients, state = self.differentiate(state, params, *batch)
            updates, moments = optimizer.update(gradients, moments, params)
            return optax.apply_updates(params, updates), moments, state, loss

        return step

    @cached_property
    def judge(self) -> Any:
        """``(state, params, *batch) -> loss``, compiled; nothing is recorded."""

        @jax.jit
        def judge(state: Any, params: Any, *batch: Any) -> Any:
            loss = self.quantized if state is None else self.quantized.with_state(state)
            return loss(params, *batch)

        return judge

    def start(self, seed: int) -> tuple[Any, Any, Any]:
        """Parameters, moments of the optimizer and state before the first step."""
        params = jax.jit(self.task.init)(jax.random.key(seed))
        batch = next(self.task.split.batches(self.task.batch, seed))
        return params, self.task.optimizer.init(params), self.state(params, *batch)

    def run(self, seed: int, tick: Callable[[], None] = lambda: None) -> Run:
        """Train from the beginning; seeds differ in parameters and in the order of examples."""
        params, moments, state = self.start(seed)
        batches = self.task.split.batches(self.task.batch, seed)
        curve, start = [], time.perf_counter()
        for _ in range(self.task.steps):
            params, moments, state, loss = self.step(params, moments, state, *next(batches))
            curve.append(loss)
            tick()
        points = tuple(float(loss) for loss in curve)
        seconds = time.perf_counter() - start
        return Run(points, self.held_out(state, params), seconds, params, state)

    def held_out(self, state: Any, params: Any) -> float:
        """The mean loss over what is held out, with weights as they would be served."""
        parts = list(self._parts())
        if self.recipe.converts:
            params = self.quantized.quantize(params, *parts[0])
        return float(np.mean([float(self.judge(state, params, *part)) for part in parts]))

    def _parts(self) -> Iterator[tuple[np.ndarray, ...]]:
        """All that is held out, in parts of one size; what is left over at the end is not used."""
        count = len(self.task.split.held_out[0])
        size = min(count, JUDGED_AT_ONCE)
        for at in range(0, count - size + 1, size):
            yield tuple(array[at : at + size] for array in self.task.split.held_out)
