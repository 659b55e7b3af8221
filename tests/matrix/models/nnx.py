"""Flax NNX: split and merge, a model object, and the bridge to Linen."""

import jax
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

import qpass
from tests.matrix.subject import WIDTH, Subject, batch
from tests.matrix.transforms import Transform, total


class Model(nnx.Module):
    """Statistics and random numbers are updated when it is called."""

    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, 12, rngs=rngs)
        self.norm = nnx.BatchNorm(12, epsilon=0.1, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)
        self.heads = nnx.Einsum("bk,knh->bnh", (12, 2, 4), (2, 4), rngs=rngs)
        self.out = nnx.LinearGeneral((2, 4), WIDTH, axis=(-2, -1), rngs=rngs)

    def __call__(self, x):
        h = self.dropout(nnx.relu(self.norm(self.up(x))))
        return x + self.out(nnx.tanh(self.heads(h)))


def _own(state):
    """Variables that the caller's trace may update: NNX refuses those of the trace around it."""
    return jax.tree.map(lambda a: a, state)


def transformed(apply, rules):
    """The model object itself, transformed."""
    return lambda model, x: qpass.transform(model, rules)(x)


WEIGHTS = {"up/kernel": (0,), "heads/kernel": (0,), "out/kernel": (0, 1)}


def split_and_merge() -> Subject:
    """The state as the parameters; what the call updated comes back beside the result."""
    graph, state = nnx.split(Model(nnx.Rngs(0)))

    def apply(state, x):
        model = nnx.merge(graph, _own(state))
        return model(x), nnx.state(model, nnx.Not(nnx.Param))

    return Subject(apply, state, batch(WIDTH), WEIGHTS)


def _grad(f):
    return nnx.value_and_grad(lambda model, x: total(f(model, x)))


def _vmap(f):
    mapped = nnx.vmap(f, in_axes=(None, 0))
    return lambda model, x: mapped(model, x[:, None])


def _scan(f):
    def scanned(model, x):
        step = nnx.scan(lambda x: f(model, x), in_axes=0, out_axes=0)
        return step(x[:, None])

    return scanned


OWN = {
    "jit": Transform("nnx.jit", nnx.jit),
    "grad": Transform("nnx.grad", _grad, derivative=True),
    "vmap": Transform("nnx.vmap", _vmap),
    "scan": Transform("nnx.scan", _scan),
    "remat": Transform("nnx.remat", nnx.remat),
}


def model_object() -> Subject:
    """The model itself as the argument, as it serves."""
    model = Model(nnx.Rngs(0))
    model.eval()
    return Subject(lambda model, x: model(x), model, batch(WIDTH), WEIGHTS, transformed, own=OWN)


class Mixed(nn.Module):
    """Linen around NNX."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(12, name="first")(x))
        return bridge.ToLinen(nnx.Linear, args=(12, WIDTH), name="second")(x)


class Bridged(nnx.Module):
    """NNX around Linen around NNX."""

    def __init__(self, rngs):
        self.mixed = bridge.ToNNX(Mixed(), rngs=rngs).lazy_init(batch(WIDTH))
        self.head = nnx.Linear(WIDTH, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.tanh(self.mixed(x)))


def bridged() -> Subject:
    """Both directions of the bridge in one model."""
    graph, state = nnx.split(Bridged(nnx.Rngs(0)))

    def apply(state, x):
        return nnx.merge(graph, _own(state))(x)

    weights = {"mixed/first/kernel": (0,), "mixed/second/kernel": (0,), "head/kernel": (0,)}
    return Subject(apply, state, batch(WIDTH), weights)
