"""Haiku: a function transformed, a layer stack, transforms that are used inside of it."""

from collections.abc import Callable
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp

from tests.matrix.subject import WIDTH, Subject, batch
from tests.matrix.transforms import Transform, total


def net(x):
    def layer(x):
        h = hk.Linear(12, name="up")(x)
        return x + hk.Linear(WIDTH, with_bias=False, name="down")(jnp.tanh(h))

    x = hk.experimental.layer_stack(2, name="layers")(layer)(x)
    x = hk.LayerNorm(-1, create_scale=True, create_offset=True, name="norm")(x)
    return hk.Linear(5, name="head")(x)


@dataclass(frozen=True)
class Apply:
    """The pure function of parameters; ``lift`` is what is done with the net inside."""

    lift: Callable = lambda net: net

    def __call__(self, params, x):
        return hk.without_apply_rng(hk.transform(lambda x: self.lift(net)(x))).apply(params, x)


def _inside(lift: Callable) -> Callable[[Apply], Apply]:
    return lambda apply: Apply(lift)


def _grad(net):
    return hk.value_and_grad(lambda x: total(net(x)))


def _vmap(net):
    return lambda x: hk.vmap(net, split_rng=False)(x[:, None])


def _scan(net):
    return lambda x: hk.scan(lambda carry, row: (carry, net(row)), jnp.zeros(()), x[:, None])


OWN = {
    "grad": Transform("hk.grad", _inside(_grad), lifts_modules=True, derivative=True),
    "vmap": Transform("hk.vmap", _inside(_vmap), lifts_modules=True),
    "scan": Transform("hk.scan", _inside(_scan), lifts_modules=True),
    "remat": Transform("hk.remat", _inside(hk.remat), lifts_modules=True),
}


def subject() -> Subject:
    """A stack of two layers and a head."""
    x = batch(WIDTH)
    params = hk.transform(net).init(jax.random.key(0), x)
    stack = "layers/"
    weights = {f"{stack}up/w": (1,), f"{stack}down/w": (1,), "head/w": (0,)}
    return Subject(Apply(), params, x, weights, own=OWN)
