"""Who takes a training step in `qpass bench train`: float, recipes of qpass, and Qwix."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.training import classifier, decoder
from qpass_bench.training.data import Split
from qpass_bench.training.recipes import FLOAT, RECIPES, Recipe
from qpass_bench.training.tasks import Task
from qpass_bench.training.trainer import Trainer

QWIX = {
    "Qwix int8": dict.fromkeys(("weight_qtype", "act_qtype", "bwd_qtype"), "int8"),
    "Qwix fp8": {
        "weight_qtype": "float8_e4m3fn",
        "act_qtype": "float8_e4m3fn",
        "bwd_qtype": "float8_e5m2",
    },
}
STEPS = 10**6  # for the schedule of the optimizer; as many as ever are run


@dataclass(frozen=True)
class Case:
    """A model whose step is timed, on random numbers.

    Attributes:
        name: without whether layers are computed again.
        make: ``remat`` to the model: a Flax module, or sizes of the plain decoder.
        path: of weights that recipes quantize.
        batch: random numbers to arrays, the examples in front.
        of: makes a model's `init` and `loss`.
    """

    name: str
    make: Callable[[bool], Any]
    path: str
    batch: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    of: Callable[[Any], tuple[Callable, Callable]] = field(repr=False)

    def task(self, remat: bool, change: Callable[[Any], Any] = lambda model: model) -> Task:
        """The case as a task, its model changed."""
        init, _ = self.of(self.make(remat))
        _, loss = self.of(change(self.make(remat)))
        arrays = self.batch(np.random.default_rng(0))
        split = Split(arrays, arrays)
        return Task(self.name, init, loss, self.path, split, STEPS, len(arrays[0]), 1e-4)


def cases(
    sizes: decoder.Sizes | None = None, vit: classifier.ViT | None = None, width: int = 512
) -> tuple[Case, ...]:
    """The models of `qpass train-demo` with their batches, and a block of a transformer."""
    sizes, vit = sizes or decoder.Sizes(), vit or classifier.ViT()

    def windows(draw: np.random.Generator) -> tuple[np.ndarray, ...]:
        return (draw.integers(0, sizes.vocabulary, (4, sizes.length + 1), np.uint8),)

    def images(draw: np.random.Generator) -> tuple[np.ndarray, ...]:
        return draw.random((128, 28, 28), np.float32), draw.integers(0, 10, 128, np.int32)

    def rows(draw: np.random.Generator) -> tuple[np.ndarray, ...]:
        return (draw.standard_normal((4, 128, width), np.float32),)

    return (
        Case("decoder", lambda r: replace(sizes, remat=r), "layers/*", windows, _plain),
        Case(
            "classifier",
            lambda r: vit.clone(remat=r),
            "params/block*/**",
            images,
            partial(_flax, classifier.init, classifier.loss),
        ),
        Case(
            f"blocks of {width}",
            lambda r: classifier.Blocks(remat=r),
            "params/block*/**",
            rows,
            partial(_flax, partial(_init_rows, width), _square),
        ),
    )


def names() -> tuple[str, ...]:
    """Everybody who may take part, float first."""
    return (*(recipe.name for recipe in RECIPES), *QWIX)


def enter(case: Case, remat: bool, name: str) -> Trainer:
    """One of `names`, ready to be compiled.

    Raises:
        ImportError: there is no Qwix.
        TypeError: Qwix quantizes Flax modules, and the model is none.
    """
    if name not in QWIX:
        return Trainer(case.task(remat), _recipe(name))
    if not isinstance(case.make(remat), nn.Module):
        raise TypeError("quantizes Flax modules only")
    library: Any = importlib.import_module("qwix")
    provider = library.QtProvider([library.QtRule(module_path=".*block.*", **QWIX[name])])
    return Trainer(case.task(remat, lambda m: library.quantize_model(m, provider)), FLOAT)


def compiled(trainer: Trainer, given: tuple) -> Any:
    """The step as a program for these arguments.

    Qwix patches functions while JAX traces, and JAX keeps what it has traced: its caches are
    emptied before and after.
    """
    jax.clear_caches()
    # Qwix asks Flax for what has other names by now.
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        program = trainer.step.lower(*given).compile()
    jax.clear_caches()
    return program


def _recipe(name: str) -> Recipe:
    return next(recipe for recipe in RECIPES if recipe.name == name)


def _plain(sizes: decoder.Sizes) -> tuple[Callable, Callable]:
    return partial(decoder.init, sizes), partial(decoder.loss, sizes)


def _flax(init: Callable, loss: Callable, model: nn.Module) -> tuple[Callable, Callable]:
    return partial(init, model), partial(loss, model)


def _init_rows(width: int, model: nn.Module, key: jax.Array) -> Any:
    return model.init(key, jnp.zeros((1, 2, width)))


def _square(model: nn.Module, params: Any, x: jax.Array) -> jax.Array:
    result: Any = model.apply(params, x)
    return jnp.mean(jnp.square(result))
