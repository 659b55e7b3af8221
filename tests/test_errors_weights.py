"""A weight that cannot be quantized is named with its site, its rule and the way out."""

import jax.numpy as jnp
import pytest

import qpass


def layer(params, x):
    return x @ params["mlp"]["kernel"]


def test_nan_names_leaf_site_rule_count_and_way_out():
    weight = jnp.ones((8, 4)).at[0, 0].set(jnp.nan).at[3, 1].set(jnp.inf)
    q = qpass.transform(layer, [qpass.Rule(path="mlp/*", weight="int8")])
    with pytest.raises(qpass.QuantizeError) as caught:
        q.quantize({"mlp": {"kernel": weight}}, jnp.ones((1, 8)))
    text = str(caught.value)
    for part in ("mlp/kernel", "mlp/dot_general.0", "rule 0: path=mlp/*", "2 of 32", "keep=True"):
        assert part in text
