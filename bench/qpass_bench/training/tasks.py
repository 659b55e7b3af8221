"""What is learned: a model, its data, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import optax

from qpass_bench.training import classifier, data, decoder, mixture


@dataclass(frozen=True)
class Task:
    """A model to train; its batches are tuples of arrays that have the examples in front.

    Attributes:
        name: what tables call it.
        init: key to parameters.
        loss: parameters and a batch to a scalar.
        path: of the weights that recipes quantize.
        split: examples.
        steps, batch, rate: of training; the rate is the highest.
    """

    name: str
    init: Callable[[jax.Array], Any]
    loss: Callable[..., jax.Array]
    path: str
    split: data.Split
    steps: int
    batch: int
    rate: float

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW, warmed up over a tenth of the steps and then slowed down to nothing."""
        rate = optax.warmup_cosine_decay_schedule(0.0, self.rate, self.steps // 10, self.steps)
        return optax.adamw(rate, b2=0.95, weight_decay=0.01)

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        made = jax.eval_shape(self.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(made))


def letters(
    sizes: decoder.Sizes | None = None,
    steps: int = 120,
    batch: int = 4,
    held_out: int = 128,
    cache: Path | None = None,
) -> Task:
    """A decoder of 2.5 million parameters that guesses the next letter of a book."""
    sizes = sizes or decoder.Sizes()
    held = data.letters(sizes.length, held_out, cache)
    return _of_text("decoder", decoder, sizes, held, steps, batch)


def experts(
    sizes: mixture.Sizes | None = None,
    steps: int = 150,
    batch: int = 4,
    held_out: int = 64,
    cache: Path | None = None,
) -> Task:
    """A decoder with a mixture of experts in each layer that guesses the next letter of a book."""
    sizes = sizes or mixture.Sizes()
    held = data.letters(sizes.length, held_out, cache)
    return _of_text("mixture of experts", mixture, sizes, held, steps, batch)


def _of_text(
    name: str, model: ModuleType, sizes: Any, text: data.Split, steps: int, batch: int
) -> Task:
    init, loss = partial(model.init, sizes), partial(model.loss, sizes)
    return Task(name, init, loss, "layers/*", text, steps, batch, rate=2e-3)


def digits(
    model: classifier.ViT | None = None,
    steps: int = 300,
    batch: int = 128,
    held_out: int = 2000,
    cache: Path | None = None,
) -> Task:
    """A vision transformer that reads handwritten digits."""
    model = model or classifier.ViT()
    return Task(
        "classifier",
        partial(classifier.init, model),
        partial(classifier.loss, model),
        "params/block*/**",
        data.digits(held_out, cache),
        steps,
        batch,
        rate=1e-3,
    )
