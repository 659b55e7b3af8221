"""Equinox: networks of equimo (vision) and eqx-zoo (language), with weights from their initialiser.

Every network is taken twice: as the arrays that `eqx.partition` gives, and as the module object
that its user holds, with callables and flags among its leaves.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.helpers import qtensor_paths
from tests.models.checks import (
    BOUND,
    INT8,
    MARKS,
    ROUTER,
    Model,
    ModelTests,
    attention,
    relative,
)
from tests.ops.test_bit_exact import assert_same_bits

pytestmark = MARKS
CLASSES, LAYERS, VOCABULARY = 10, 2, 256


def images(size: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, 3, size, size))


def classify(network: Any, images: jax.Array) -> jax.Array:
    """Logits of a batch, as `equimo` documents it."""
    return jax.vmap(lambda image: network(image, inference=True))(images)


def equinox_model(
    package: str,
    name: str,
    network: Any,
    call: Callable,
    inputs: tuple,
    weights: set[str],
    left: dict[str, int],
) -> Model:
    """A `Model` whose parameters are the arrays of an Equinox module."""
    import equinox as eqx

    params, static = eqx.partition(network, eqx.is_inexact_array)

    def fn(params, *inputs):
        return call(eqx.combine(params, static), *inputs)

    return Model(package, name, fn, params, inputs, frozenset(weights), left)


def vit(**options: Any) -> Any:
    from equimo.vision.models.vit import VisionTransformer

    return VisionTransformer(
        img_size=16,
        in_channels=3,
        dim=64,
        patch_size=4,
        num_heads=4,
        num_classes=CLASSES,
        key=jax.random.key(0),
        **{"depths": [LAYERS], **options},
    )


IN_CONVNEXT = ("dwconv", "pwconv1", "pwconv2")
IN_BLOCKS = ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
VIT_WEIGHTS = {
    "head/weight",
    "patch_embed/proj/weight",
    *(f"blocks/0/blocks/{i}/{name}/weight" for i in range(LAYERS) for name in IN_BLOCKS),
}


def vision_transformer() -> Model:
    return equinox_model(
        "equimo",
        "VisionTransformer",
        vit(),
        classify,
        (images(16),),
        VIT_WEIGHTS,
        attention(LAYERS),
    )


def convnext() -> Model:
    """All convolutions but the head, pointwise and depthwise ones."""
    from equimo.vision.models.convnext import ConvNeXt

    # LayerScale starts at 1e-6, which hides every block; 1 is what it grows to in training.
    network = ConvNeXt(
        depths=[1, 1, 1, 1],
        dims=[16, 16, 32, 32],
        layer_scale_init_value=1.0,
        num_classes=CLASSES,
        key=jax.random.key(0),
    )
    blocks = {f"blocks/{i}/blocks/0/{name}/weight" for i in range(4) for name in IN_CONVNEXT}
    downsample = {f"blocks/{i}/downsample/conv/weight" for i in range(4)}
    weights = {"head/weight", *blocks, *downsample}
    return equinox_model("equimo", "ConvNeXt", network, classify, (images(32),), weights, {})


def decoder(**options: Any) -> Any:
    from eqx_zoo.models.causal_lm.config import Config
    from eqx_zoo.models.causal_lm.model import CausalLM

    config = Config(
        architecture="Qwen3ForCausalLM",
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_theta=10_000,
        attention_bias=False,
        qk_norm=True,
        rope_scaling=None,
        **options,
    )
    return CausalLM(config, key=jax.random.key(0))


def next_tokens(network: Any, tokens: jax.Array) -> jax.Array:
    return network(tokens)[0]


def zoo_model(name: str, network: Any, in_layers: tuple[str, ...], head: str, left: dict) -> Model:
    names = (*(f"self_attn/{n}_proj" for n in "qkvo"), *in_layers)
    weights = {f"model/layers/{i}/{name}/weight" for i in range(LAYERS) for name in names} | {head}
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, 8), jnp.int32)
    return equinox_model("eqx-zoo", name, network, next_tokens, (tokens,), weights, left)


def qwen3_tied() -> Model:
    mlp = ("mlp/gate_proj", "mlp/up_proj", "mlp/down_proj")
    left = attention(LAYERS)
    network = decoder(tie_word_embeddings=True)
    return zoo_model("Qwen3, tied", network, mlp, "model/embed_tokens/weight", left)


def qwen3_moe() -> Model:
    network = decoder(
        tie_word_embeddings=False,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        norm_topk_prob=True,
        moe_layers=tuple(range(LAYERS)),
    )
    experts = tuple(f"mlp/experts/{name}_proj" for name in ("gate", "up", "down"))
    left = {**attention(LAYERS), ROUTER: LAYERS}
    return zoo_model("Qwen3 MoE", network, experts, "lm_head/weight", left)


MODELS = [vision_transformer, convnext, qwen3_tied, qwen3_moe]


@pytest.mark.parametrize("model", MODELS, indirect=True, ids=lambda build: build.__name__)
class TestEquinox(ModelTests):
    pass


def test_a_module_object_as_the_first_argument():
    """With its flags and numbers that are no arrays; a module comes back."""
    import equinox as eqx

    network, x = vit(depths=[1]), images(16)
    assert not all(map(eqx.is_array, jax.tree.leaves(network)))
    q = qpass.transform(classify, INT8)
    stored = q.quantize(network, x)
    assert type(stored) is type(network)
    assert qtensor_paths(stored) == {path for path in VIT_WEIGHTS if "blocks/1" not in path}
    jitted = eqx.filter_jit(q)
    assert_same_bits(jitted(stored, x), jitted(network, x))


def test_a_transformed_module_object():
    """It is called, mapped, jitted and differentiated like the network itself."""
    import equinox as eqx

    network, x = vit(depths=[1]), images(16)
    q = qpass.transform(network, INT8)
    stored = q.quantize(x[0], inference=True)
    assert qtensor_paths(stored.module) == {path for path in VIT_WEIGHTS if "blocks/1" not in path}
    jitted = eqx.filter_jit(classify)
    got = jitted(q, x)
    assert relative(got, jitted(network, x)) < BOUND
    assert_same_bits(jitted(stored, x), got)

    def gradients(network):
        loss = eqx.filter_grad(lambda network: jnp.mean(classify(network, x) ** 2))
        return eqx.filter_jit(loss)(network)

    mine, wanted = gradients(q).module, gradients(network)
    assert jax.tree.structure(mine) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(wanted), strict=True):
        assert relative(a, b) < 0.2


def test_keys_and_inference_flags():
    """Keys go in and masks are drawn inside: rules that keep everything change no bit.

    `eqx.nn.inference_mode` flips Python flags in the module: another program, the same rules.
    """
    import equinox as eqx

    def train(network, images, keys):
        return jax.vmap(lambda image, key: network(image, key=key))(images, keys)

    network = vit(depths=[1], proj_drop=0.2, attn_drop=0.2, drop_path_rate=0.2)
    serving = eqx.nn.inference_mode(network)
    x, keys = images(16), jax.random.split(jax.random.key(2))
    float_call = eqx.filter_jit(train)
    wanted = float_call(network, x, keys)
    kept = eqx.filter_jit(qpass.transform(train, [qpass.Rule(keep=True)]))
    assert_same_bits(kept(network, x, keys), wanted)
    assert np.any(wanted != float_call(network, x, keys[::-1]))
    q = eqx.filter_jit(qpass.transform(train, INT8))
    assert relative(q(network, x, keys), wanted) < BOUND
    assert relative(q(serving, x, keys), float_call(serving, x, keys)) < BOUND
    assert np.any(q(serving, x, keys) != q(network, x, keys))


def test_batch_statistics_are_updated_as_before():
    """`eqx.nn.State` goes in and comes out; what follows the statistics is quantized."""
    import equinox as eqx

    class Network(eqx.Module):
        inner: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        outer: eqx.nn.Linear

        def __init__(self, key):
            self.inner = eqx.nn.Linear(8, 32, key=key)
            self.norm = eqx.nn.BatchNorm(32, axis_name="batch", mode="batch")
            self.outer = eqx.nn.Linear(32, 4, key=key)

        def __call__(self, x, state):
            h, state = self.norm(self.inner(x), state)
            return self.outer(jax.nn.relu(h)), state

    def call(network, state, x):
        batch = jax.vmap(network, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return batch(x, state)

    network, state = eqx.nn.make_with_state(Network)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (16, 8))
    rules = [qpass.Rule(path="inner/**", keep=True), *INT8]
    wanted, wanted_state = eqx.filter_jit(call)(network, state, x)
    got, got_state = eqx.filter_jit(qpass.transform(call, rules))(network, state, x)
    assert 0 < relative(got, wanted) < BOUND
    norm = network.norm
    for index in norm.batch_state_index, norm.batch_counter:
        updated = jax.tree.map(np.array_equal, got_state.get(index), wanted_state.get(index))
        assert jax.tree.all(updated)


def test_rules_name_the_module_s_own_paths():
    rules = [
        qpass.Rule(path="blocks/*/blocks/1/mlp/**", weight="int4"),
        qpass.Rule(path="blocks/**", weight="int8", act="int8"),
        qpass.Rule(path="head/**", keep=True),
    ]
    rows = qpass.transform(classify, rules).plan(vit(), images(16)).rows
    schemes = {row.weight: row.scheme for row in rows if row.weight in VIT_WEIGHTS}
    last = {f"blocks/0/blocks/1/mlp/fc{k}/weight" for k in (1, 2)}
    assert {w for w, scheme in schemes.items() if scheme.startswith("int4")} == last
    kept, unnamed = "head/weight", "patch_embed/proj/weight"
    assert {w for w, scheme in schemes.items() if not scheme} == {kept, unnamed}


def test_a_decoder_with_a_cache():
    """The cache is a pytree argument and result; two steps give what one pass gives."""
    import equinox as eqx

    def step(network, tokens, cache):
        return network(tokens, cache)

    network = decoder(tie_word_embeddings=True)
    tokens = jnp.arange(8, dtype=jnp.int32)
    q = qpass.transform(step, INT8)
    stored, jitted = q.quantize(network, tokens, network.init_cache(8)), eqx.filter_jit(q)
    whole, _ = jitted(stored, tokens, network.init_cache(8))
    first, cache = jitted(stored, tokens[:5], network.init_cache(8))
    rest, cache = jitted(stored, tokens[5:], cache)
    np.testing.assert_allclose(np.concatenate([first, rest]), whole, rtol=1e-4, atol=1e-4)
    assert int(cache.length) == 8
