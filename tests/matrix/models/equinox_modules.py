"""Equinox: a module as the argument, layers stacked by ``filter_vmap``, filtered transforms."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

import qpass
from tests.matrix.subject import WIDTH, Subject, batch
from tests.matrix.transforms import Transform, total


class Layer(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    scale: float = eqx.field(static=True)

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.up = eqx.nn.Linear(WIDTH, 12, key=one)
        self.down = eqx.nn.Linear(12, WIDTH, use_bias=False, key=two)
        self.scale = 0.5

    def __call__(self, x):
        return x + self.scale * self.down(jnp.tanh(self.up(x)))


class Model(eqx.Module):
    """Two layers in one stack, called for one example."""

    layers: Layer
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.layers = eqx.filter_vmap(Layer)(jax.random.split(one, 2))
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, 5, key=two)

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def step(x, arrays):
            return eqx.combine(arrays, static)(x), None

        return self.head(self.norm(lax.scan(step, x, arrays)[0]))


def _call(model, x):
    return jax.vmap(model)(x)


def _transformed(apply, rules):
    """The module itself, transformed; it is called for one example."""
    return lambda model, x: jax.vmap(qpass.transform(model, rules))(x)


def _grad(f):
    return eqx.filter_value_and_grad(lambda model, x: total(f(model, x)))


def _vmap(f):
    mapped = eqx.filter_vmap(f, in_axes=(None, 0))
    return lambda model, x: mapped(model, x[:, None])


OWN = {
    "jit": Transform("eqx.filter_jit", eqx.filter_jit),
    "grad": Transform("eqx.filter_grad", _grad, derivative=True),
    "vmap": Transform("eqx.filter_vmap", _vmap),
    "remat": Transform("eqx.filter_checkpoint", eqx.filter_checkpoint),
}


def subject() -> Subject:
    """A stack of layers in a scan, mapped over the batch."""
    model = Model(jax.random.key(0))
    weights = {"layers/up/weight": (2,), "layers/down/weight": (2,), "head/weight": (1,)}
    return Subject(_call, model, batch(WIDTH), weights, _transformed, own=OWN)
