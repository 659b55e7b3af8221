"""Flax Linen: the networks of gemma, with weights from its own initialisers."""

import importlib
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checks import (
    APPROXIMATE_ROUTER,
    MARKS,
    OF_ACTIVATIONS,
    Model,
    ModelTests,
    at_width,
    attention,
    filled,
)

pytestmark = MARKS
VOCABULARY, LAYERS = 256, 2


def library(name: str) -> Any:
    """A module of `gemma.gm.nn`.

    Annotations in it name TensorFlow's type of tensors, and nothing else of TensorFlow, so that
    an empty class of that name is enough; it is gone afterwards.
    """
    module = f"gemma.gm.nn.{name}"
    if "tensorflow" in sys.modules or module in sys.modules:
        return importlib.import_module(module)
    names = ModuleType("tensorflow")
    names.Tensor = type("Tensor", (), {})
    sys.modules["tensorflow"] = names
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules["tensorflow"]


def tokens() -> jax.Array:
    drawn = np.random.default_rng(1).integers(1, VOCABULARY, (2, 8))
    return jnp.asarray(drawn, jnp.int32)


def linen_model(name: str, network: Any, weights: set[str], left: dict[str, int]) -> Model:
    """A `Model` whose parameters are the variables of a Linen module."""

    def fn(variables, tokens):
        return network.apply(variables, tokens).logits

    variables = jax.jit(network.init)(jax.random.key(0), tokens())
    drawn = filled(variables)
    params = at_width(drawn, embeddings="'input_embedding'")
    return Model("gemma", name, fn, params, (tokens(),), frozenset(weights), left, drawn)


def in_layers(*names: str) -> set[str]:
    return {f"params/layer_{i}/{name}" for i in range(LAYERS) for name in names}


SIZES = {
    "num_embed": VOCABULARY,
    "embed_dim": 64,
    "hidden_dim": 128,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "sliding_window_size": 4,
    "use_post_attn_norm": True,
    "use_post_ffw_norm": True,
}
ATTENTION = ("attn/attn_vec_einsum/w", "attn/q_einsum/w", "attn/kv_einsum/w")
MLP = ("mlp/gating_einsum", "mlp/linear")
PER_LAYER = ("per_layer_input_gate/w", "per_layer_projection/w")
EMBEDDING = "params/embedder/input_embedding"

# One projection multiplies its weight by a number before use: a new value to qpass.
SCALED = 1


def kinds() -> tuple:
    kind = library("_modules").AttentionType
    return kind.LOCAL_SLIDING, kind.GLOBAL


def gemma3() -> Model:
    config = library("_config").TransformerConfig(
        **SIZES,
        attention_types=kinds(),
        final_logit_softcap=None,
        use_qk_norm=True,
        transpose_gating_einsum=True,
    )
    network = library("_transformer").Transformer(config=config, dtype=jnp.float32)
    weights = in_layers(*ATTENTION, *MLP) | {EMBEDDING}
    return linen_model("Gemma 3", network, weights, attention(LAYERS))


def gemma3n() -> Model:
    """Coefficients between its four streams are clipped before use: new values to qpass.

    The scales of its norms are zero until a checkpoint is loaded; here they are one.
    """
    config = library("gemma3n._config").TransformerConfig(
        **SIZES,
        attention_types=kinds(),
        final_logit_softcap=30.0,
        use_qk_norm=True,
        use_value_norm=True,
        transpose_gating_einsum=True,
        use_altup=True,
        altup_coef_clip=120.0,
        per_layer_input_dim=16,
        use_laurel=True,
        laurel_rank=16,
        activation_sparsity_pattern=(0.95, 0.0),
        scale_plus_one=False,
        guard_against_excess_precision=True,
    )
    network = library("gemma3n._transformer").Gemma3nTransformer(config=config, dtype=jnp.float32)
    extra = ("altup/modality_router/w", "laurel/linear_left/w", "laurel/linear_right/w")
    weights = in_layers(*ATTENTION, *MLP, *(f"per_layer_mapping/{w}" for w in PER_LAYER), *extra)
    streams = ("altup_projection", "altup_unembed_projection")
    weights |= {f"params/{name}_{i}/{name}_{i}" for name in streams for i in range(3)}
    weights |= {EMBEDDING}
    left = {**attention(LAYERS), OF_ACTIVATIONS: 2 * LAYERS + SCALED}
    model = linen_model("Gemma 3n", network, weights, left)
    opened = (jax.tree_util.tree_map_with_path(_open_norm, p) for p in (model.params, model.drawn))
    return replace(model, **dict(zip(("params", "drawn"), opened, strict=True)))


def _open_norm(path: tuple, leaf: jax.Array) -> jax.Array:
    return jnp.ones_like(leaf) if path[-1].key == "scale" else leaf


def gemma4(**options: Any) -> Any:
    config = library("gemma4._config").TransformerConfig(
        **SIZES,
        attention_types=kinds(),
        final_logit_softcap=30.0,
        global_key_size=32,
        global_rope_proportion=0.25,
        local_rope_proportion=1.0,
        **options,
    )
    return library("gemma4._transformer").Transformer(config=config, dtype=jnp.float32)


def gemma4_dense() -> Model:
    weights = in_layers(*ATTENTION, *MLP, *PER_LAYER) | {EMBEDDING}
    left = {**attention(LAYERS), OF_ACTIVATIONS: SCALED}
    return linen_model("Gemma 4", gemma4(per_layer_input_dim=16), weights, left)


def gemma4_moe() -> Model:
    options = {"num_experts": 4, "top_k_experts": 2, "expert_dim": 32, "moe_dense_hidden_dim": 128}
    dense = ("mlp2/gating_einsum", "mlp2/linear")
    experts = ("mlp/gating_einsum/w", "mlp/linear/w")
    weights = in_layers(*ATTENTION, *dense, *experts) | {EMBEDDING}
    left = {**attention(LAYERS), OF_ACTIVATIONS: LAYERS, APPROXIMATE_ROUTER: LAYERS}
    return linen_model("Gemma 4 MoE", gemma4(enable_moe=True, **options), weights, left)


MODELS = [gemma3, gemma3n, gemma4_dense, gemma4_moe]


@pytest.mark.parametrize("model", MODELS, indirect=True, ids=lambda build: build.__name__)
class TestGemma(ModelTests):
    pass


def test_folds_find_the_norms_before_products():
    """Gemma has norms after each block as well, and their gains are `1 + scale`."""
    model = gemma3()
    folds = model.quantized.folds(model.params, *model.inputs)
    readers = {"attn/kv_einsum/w": "pre_attention_norm", "mlp/gating_einsum": "pre_ffw_norm"}
    for weight, norm in readers.items():
        for layer in (f"params/layer_{k}" for k in range(LAYERS)):
            (fold,) = [f for f in folds if f"{layer}/{weight}" in f.weights]
            assert fold.absorbed_by == (f"{layer}/{norm}/scale",)


def test_norms_after_blocks_refuse_rotations():
    """Only the values of heads turn: a gain after a block goes into the residual stream."""
    model = gemma3()
    rotations = model.quantized.rotations(model.params, *model.inputs)
    assert [r.size for r in rotations] == [16] * LAYERS
    reasons = [r.reason for r in rotations.refusals if any("attn" in s for s in r.sites)]
    assert reasons
    assert all("post_attention_norm/scale" in r and "post-norm" in r for r in reasons)
