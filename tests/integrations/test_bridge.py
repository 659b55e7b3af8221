"""Linen modules inside of NNX, and NNX modules inside of Linen."""

import jax
import pytest

import qpass
from tests.integrations.helpers import KEEP, W8A8, WIDTH, assert_close, assert_same, normal, weights
from tests.integrations.nnx_models import Block, nnx, state_of

linen = pytest.importorskip("flax.linen")

X = normal(2, WIDTH)


class Layer(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        x = linen.BatchNorm(use_running_average=not train)(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(4)(x)


def to_nnx():
    return nnx.bridge.ToNNX(Layer(), rngs=nnx.Rngs(0)).lazy_init(X)


def serve(model, x):
    return model(x, train=False)


def test_a_linen_module_inside_of_nnx():
    model, same = to_nnx(), to_nnx()
    q = qpass.transform(same, KEEP)
    for _ in range(2):
        wanted = model(X, mutable=["batch_stats"])
        assert_same(q(X, mutable=["batch_stats"]), wanted)
    assert_same(state_of(same), state_of(model))
    q = qpass.transform(same, W8A8)
    assert weights(q.plan(X, train=False)) == ["Dense_0/kernel"]
    served = nnx.jit(serve)(q.quantize(X, train=False), X)
    assert_same(nnx.jit(serve)(q, X), served)
    assert_close(served, serve(same, X))


def test_an_nnx_module_inside_of_linen():
    model = nnx.bridge.ToLinen(Block)
    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0)), strict=True))
    variables = model.init(keys, X)
    options = {"rngs": {"dropout": jax.random.key(1)}, "mutable": ["batch_stats"]}
    wanted, stats = model.apply(variables, X, **options)
    got = qpass.transform(model.apply, KEEP)(variables, X, **options)
    assert_same(got, (wanted, stats))
    q = qpass.transform(model.apply, W8A8)
    assert weights(q.plan(variables, X, **options)) == ["params/up/kernel", "params/down/kernel"]
    stored = q.quantize(variables, X, **options)
    serve = jax.jit(lambda v, x: q(v, x, **options))
    assert_same(serve(variables, X), serve(stored, X))
    assert_close(serve(stored, X)[0], wanted)
