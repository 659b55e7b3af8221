"""NNX models that update themselves in every way that NNX has."""

import jax
import jax.numpy as jnp
import pytest

from tests.integrations.helpers import WIDTH, numbers

nnx = pytest.importorskip("flax.nnx")


class Block(nnx.Module):
    """Statistics, random numbers and products."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(self.down(nnx.gelu(self.up(self.norm(x)))))


class Net(nnx.Module):
    """A decoder with an embedding that is read at both ends."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(10, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs)])

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = self.run(block, x)
        return self.embed.attend(x)

    def run(self, block, x):
        return block(x)


class Nested(Net):
    """A rematerialized call of a jitted one."""

    def run(self, block, x):
        return nnx.remat(nnx.jit(call))(block, x)


class Branching(Net):
    """A loop, then a choice."""

    def run(self, block, x):
        _, x = nnx.fori_loop(0, 2, lambda _, carry: (carry[0], carry[0](carry[1])), (block, x))
        return nnx.cond(x.sum() > 0, call, lambda b, x: x, block, x)


def stacked(rngs, copies=2):
    @nnx.split_rngs(splits=copies)
    @nnx.vmap(in_axes=0)
    def make(rngs):
        return Block(rngs)

    return make(rngs)


class Scanned(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(10, WIDTH, rngs=rngs)
        self.blocks = stacked(rngs)

    def __call__(self, tokens):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(block, x):
            return block(x)

        return self.embed.attend(forward(self.blocks, self.embed(tokens)))


class Growing(nnx.Module):
    """Changes by more than values: attributes that appear, vanish, count and are no Variables."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.calls = 0
        self.seen = nnx.data(jnp.zeros(()))
        self.count = nnx.Variable(0)
        self.scratch = nnx.Cache(jnp.ones(2))

    def __call__(self, x):
        y = self.linear(x)
        self.calls += 1
        self.seen = self.seen + y.sum()
        self.count.set_value(self.count.get_value() + 1)
        if hasattr(self, "scratch"):
            del self.scratch
            self.cache = nnx.Cache(y)
        else:
            self.cache[...] = self.cache[...] + y
        return y


TOKENS = jnp.arange(6, dtype=jnp.int32).reshape(2, 3)


def make(kind=Net):
    return kind(nnx.Rngs(0))


def call(model, x):
    return model(x)


def state_of(model):
    """Every value of a model."""
    return numbers(nnx.to_pure_dict(nnx.state(model)))


def shapes(state):
    return jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
