"""Convolutions as the layers of Flax write them."""

import jax
import numpy as np
import pytest

import qpass

nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

X = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
RULE = qpass.Rule(weight="int8", act="int8")
LAYERS = {
    "Conv": nn.Conv(8, (3, 3), (2, 2)),
    "depthwise": nn.Conv(4, (3, 3), feature_group_count=4, padding="VALID"),
    "circular": nn.Conv(8, (3, 3), padding="CIRCULAR"),
    "ConvTranspose": nn.ConvTranspose(8, (3, 3), (2, 2)),
    "ConvTranspose of a transposed kernel": nn.ConvTranspose(
        8, (3, 3), (2, 2), transpose_kernel=True
    ),
}


def close(got, want):
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
    assert np.any(np.asarray(got) != np.asarray(want))


@pytest.mark.parametrize("name", LAYERS)
def test_linen(name):
    layer = LAYERS[name]
    params = layer.init(jax.random.key(1), X)
    q = qpass.transform(layer.apply, RULE)
    stored = q.quantize(params, X)
    kernel = stored["params"]["kernel"]
    out = 2 if "transposed" in name else 3
    assert kernel.scale.shape[kernel.physical(out)] == kernel.shape[out] == kernel.scale.size
    close(jax.jit(q)(stored, X), layer.apply(params, X))


def test_nnx():
    model = nnx.Conv(4, 8, (3, 3), rngs=nnx.Rngs(0))
    want = model(X)
    served = qpass.transform(model, RULE).quantize(X)
    assert isinstance(served.module.kernel.get_value(), qpass.QTensor)
    close(served(X), want)
