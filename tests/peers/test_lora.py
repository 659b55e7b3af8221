"""Adapters of low rank beside Qwix's `LoraProvider`: with the same factors, the same figures."""

import jax
import numpy as np
import pytest

import qpass
from tests.peers.common import arrays
from tests.programs import normal


@pytest.mark.parametrize("weight", [None, "int8"])
def test_the_figures_of_qwix(qwix, weight):
    """Of an NNX layer, whose model Qwix changes; for qpass it stays as it is."""
    from flax import nnx

    _, x = arrays(3, 40)
    rng = np.random.default_rng(1)
    factors = {"a": normal(rng, (40, 3)), "b": normal(rng, (3, 8))}

    model = nnx.Linear(40, 8, rngs=nnx.Rngs(0))
    rule = qpass.Rule(weight=weight, lora=qpass.LoRA(rank=3, alpha=6.0))
    q = qpass.transform(model, [rule], dialect="qwix")
    (path,) = q.init_adapters(jax.random.key(0), x)
    got = q.with_adapters({path: factors})(x)

    module = qwix.module
    provider = module.LoraProvider(module_path=".*", rank=3, alpha=6.0, weight_qtype=weight)
    theirs = module.apply_lora_to_model(model, provider, x, rngs=nnx.Rngs(1))
    assert theirs.kernel_lora_a.shape == (40, 3)
    theirs.kernel_lora_a[...] = factors["a"]
    theirs.kernel_lora_b[...] = factors["b"]
    np.testing.assert_allclose(got, theirs(x), rtol=0, atol=2e-5 * np.abs(got).max())
