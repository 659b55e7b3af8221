"""Flax Linen: scanned blocks, batch statistics, a tied embedding; transforms that lift modules."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tests.matrix.subject import ROWS, WIDTH, Subject
from tests.matrix.transforms import Transform, direction


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(2, use_bias=False, name="attention")(x)
        return x + nn.tanh(nn.Dense(WIDTH, name="up")(x)), None


class Decoder(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(6, WIDTH, name="embed")
        layers = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        x, _ = layers(name="layers")(embed(tokens), None)
        x = nn.BatchNorm(use_running_average=not self.train, epsilon=0.1, name="norm")(x)
        return embed.attend(x)


@dataclass(frozen=True)
class Apply:
    """``model.apply`` that hands on new statistics; ``call`` is what is done with the module."""

    model: nn.Module
    call: Callable[[Any, Any], Any] = lambda model, x: model(x)
    mutable: Any = "batch_stats"

    def __call__(self, variables, x):
        return nn.apply(self.call, self.model, mutable=self.mutable)(variables, x)


def _module(lift: Callable) -> Callable[[Apply], Apply]:
    return lambda apply: replace(apply, model=lift(Decoder)())


def _call(call: Callable) -> Callable[[Apply], Apply]:
    """The module as it serves: what Linen maps or scans cannot update shared statistics."""
    return lambda apply: replace(apply, model=Decoder(train=False), call=call, mutable=False)


def _vjp(model, x):
    out, pull = nn.vjp(lambda model: model(x), model)
    return out, pull(direction(out))


def _vmap(model, x):
    axes = {"params": None, "batch_stats": None}
    mapped = nn.vmap(lambda m, x: m(x), variable_axes=axes, split_rngs={"params": False})
    return mapped(model, x[:, None])


def _scan(model, x):
    step = nn.scan(
        lambda model, carry, row: (carry + 1, model(row)),
        variable_broadcast=["params", "batch_stats"],
        split_rngs={"params": False},
    )
    return step(model, jnp.zeros(()), x[:, None])


OWN = {
    "jit": Transform("nn.jit", _module(nn.jit), lifts_modules=True),
    "grad": Transform("nn.vjp", _call(_vjp), lifts_modules=True, derivative=True),
    "vmap": Transform("nn.vmap", _call(_vmap), lifts_modules=True),
    "scan": Transform("nn.scan", _call(_scan), lifts_modules=True),
    "remat": Transform("nn.remat", _module(nn.remat), lifts_modules=True),
}


def subject() -> Subject:
    """A decoder of two layers."""
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 6, (ROWS, 3)), jnp.int32)
    variables = jax.jit(Decoder().init)(jax.random.key(0), tokens)
    layers = "params/layers/"
    weights = {
        "params/embed/embedding": (1,),
        **{f"{layers}attention/{name}/kernel": (1,) for name in ("query", "key", "value")},
        f"{layers}attention/out/kernel": (1, 2),
        f"{layers}up/kernel": (1,),
    }
    return Subject(Apply(Decoder()), variables, tokens, weights, own=OWN)
