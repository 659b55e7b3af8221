"""Delayed scaling leaves rematerialization on: peak memory by XLA's own analysis."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import qpass
from tests.training.common import WHOLE

WIDTH, LAYERS, ROWS = 64, 6, 512


class LinenBlock(nn.Module):
    """A residual block of two products."""

    @nn.compact
    def __call__(self, x, _):
        """One layer of the scan."""
        y = nn.Dense(4 * WIDTH)(x)
        return x + nn.Dense(WIDTH)(nn.gelu(y)), None


class NnxBlock(nnx.Module):
    """The same."""

    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        """One layer."""
        return x + self.down(nnx.gelu(self.up(x)))


def linen(remat):
    """A loss of scanned blocks, and its parameters."""
    block = nn.remat(LinenBlock, prevent_cse=False) if remat else LinenBlock
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    model = nn.scan(block, length=LAYERS, **axes)()
    params = model.init(jax.random.key(0), jnp.ones((ROWS, WIDTH)), None)
    return (lambda params, x: jnp.mean(model.apply(params, x, None)[0] ** 2)), params


def of_nnx(remat):
    """The same of NNX modules."""

    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return NnxBlock(nnx.Rngs(key))

    graph, state = nnx.split(make(jax.random.split(jax.random.key(0), LAYERS)))

    def body(x, state):
        def call(block, x):
            return block(x)

        return (nnx.remat(call) if remat else call)(nnx.merge(graph, state), x), None

    return (lambda state, x: jnp.mean(jax.lax.scan(body, x, state)[0] ** 2)), state


def plain(remat):
    """The same of functions."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "down": jax.random.normal(keys[1], (LAYERS, 4 * WIDTH, WIDTH)) / 16,
        "up": jax.random.normal(keys[0], (LAYERS, WIDTH, 4 * WIDTH)) / 8,
    }

    def body(x, w):
        return x + jax.nn.gelu(x @ w["up"]) @ w["down"], None

    body = jax.checkpoint(body) if remat else body
    return (lambda params, x: jnp.mean(jax.lax.scan(body, x, params)[0] ** 2)), params


def peak(make, remat):
    """Temporary bytes of a whole step, and its loss after two."""
    fn, params = make(remat)
    x = jax.random.normal(jax.random.key(1), (ROWS, WIDTH))
    step = qpass.transform(jax.value_and_grad(fn), WHOLE)
    state = step.init_state(params, x)
    compiled = jax.jit(step.apply).lower(state, params, x).compile()
    _, state = compiled(state, params, x)
    (value, _), _ = compiled(state, params, x)
    return compiled.memory_analysis().temp_size_in_bytes, value


@pytest.mark.parametrize(
    "make",
    [
        plain,
        pytest.param(linen, marks=pytest.mark.slow),
        pytest.param(of_nnx, marks=pytest.mark.slow),
    ],
)
def test_rematerialized_layers_need_less_memory(make):
    with_remat, value = peak(make, remat=True)
    without, expected = peak(make, remat=False)
    assert with_remat < 0.7 * without
    assert abs(value - expected) < 1e-4 * abs(expected)
