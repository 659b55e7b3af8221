"""Plain functions: parameters in dictionaries and lists, in dataclasses; a training step."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from tests.matrix.subject import WIDTH, Subject, batch, weight


def _gated(params, x):
    h = jnp.tanh(x @ params["up"]["w"] + params["up"]["b"])
    h = h * jax.nn.sigmoid(x @ params["gate"][0])
    return {"y": x + jnp.einsum("bhk,hkd->bd", h.reshape(-1, 2, 6), params["down"])}


def dictionary() -> Subject:
    """A gated layer, and an einsum over heads."""
    params = {
        "up": {"w": weight(WIDTH, 12, seed=1), "b": weight(12, seed=2)},
        "gate": [weight(WIDTH, 12, seed=3)],
        "down": weight(2, 6, WIDTH, seed=4),
    }
    weights = {"up/w": (0,), "gate/0": (0,), "down": (0, 1)}
    return Subject(_gated, params, batch(WIDTH), weights)


@partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["act"])
@dataclass(frozen=True)
class Layer:
    w: jax.Array
    b: jax.Array
    act: str

    def __call__(self, x):
        return getattr(jnp, self.act)(x @ self.w.T + self.b)


@partial(jax.tree_util.register_dataclass, data_fields=["layers", "head"], meta_fields=[])
@dataclass(frozen=True)
class Model:
    layers: list[Layer]
    head: jax.Array

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x, jnp.einsum("bd,nd->bn", x, self.head)


def dataclasses() -> Subject:
    """Layers with a static field; a method is the model."""
    layers = [
        Layer(weight(12, WIDTH, seed=1), weight(12, seed=2), "tanh"),
        Layer(weight(WIDTH, 12, seed=3), weight(WIDTH, seed=4), "sin"),
    ]
    model = Model(layers, weight(5, WIDTH, seed=5))
    weights = {"layers/0/w": (1,), "layers/1/w": (1,), "head": (1,)}
    return Subject(Model.__call__, model, batch(WIDTH), weights)
