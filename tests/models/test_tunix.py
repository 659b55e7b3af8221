"""Flax NNX: the networks of google-tunix, with weights from its own initialisers."""

import importlib
import importlib.util
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qpass
from tests.models.checks import (
    APPROXIMATE_ROUTER,
    BOUND,
    INT8,
    MARKS,
    OF_ACTIVATIONS,
    ROUTER,
    Model,
    ModelTests,
    at_width,
    attention,
    filled,
    relative,
)

pytestmark = MARKS
VOCABULARY, LAYERS, BATCH, LENGTH = 256, 2, 2, 8
SHAPE = {"num_layers": LAYERS, "embed_dim": 64, "hidden_dim": 128, "num_heads": 4, "head_dim": 16}


def network(name: str) -> Any:
    """The module of a network, without what `tunix` itself imports: all of its trainers."""
    if "tunix" not in sys.modules:
        spec = importlib.util.find_spec("tunix")
        sys.modules["tunix"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"tunix.models.{name}.model")


def tokens() -> jax.Array:
    drawn = np.random.default_rng(1).integers(1, VOCABULARY, (BATCH, LENGTH))
    return jnp.asarray(drawn, jnp.int32)


def causal() -> jax.Array:
    return jnp.broadcast_to(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), (BATCH, LENGTH, LENGTH))


def nnx_model(name: str, network: Any, weights: set[str], left: dict[str, int]) -> Model:
    """A `Model` whose parameters are the state of an NNX module, called with a causal mask."""
    graph, state = nnx.split(network)
    drawn = filled(state)
    params = at_width(drawn, embeddings="input_embedding")

    def fn(state, tokens):
        positions = jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
        logits, _ = nnx.merge(graph, state)(tokens, positions, None, causal())
        return logits

    return Model("google-tunix", name, fn, params, (tokens(),), frozenset(weights), left, drawn)


def in_layers(*names: str) -> set[str]:
    return {f"layers/{i}/{name}" for i in range(LAYERS) for name in names}


ATTENTION = tuple(f"attn/{name}_proj/w" for name in "qkvo")
MLP = tuple(f"mlp/{name}_proj/kernel" for name in ("gate", "up", "down"))
EXPERTS = tuple(f"mlp/{name}_proj" for name in ("gate", "up", "down"))
GEMMA = ("attn/attn_vec_einsum/w", "attn/q_einsum/w", "attn/kv_einsum/w", *MLP)
EMBEDDING = "embedder/input_embedding"
IN_ATTENTION = attention(LAYERS)


def qwen3(**options: Any) -> Any:
    lib = network("qwen3")
    sizes = {"vocab_size": VOCABULARY, "num_kv_heads": 2, "rope_theta": 10_000, "norm_eps": 1e-6}
    return lib.Qwen3(lib.ModelConfig(**SHAPE, **sizes, **options), rngs=nnx.Rngs(0))


def qwen3_dense() -> Model:
    weights = in_layers(*ATTENTION, *MLP) | {EMBEDDING}
    return nnx_model("Qwen3", qwen3(use_tied_embedding=True), weights, IN_ATTENTION)


def qwen3_moe() -> Model:
    """Each expert is a slice of one parameter; dispatch and return are products of activations."""
    weights = in_layers(*ATTENTION, *EXPERTS) | {"lm_head/w"}
    left = {**attention(LAYERS), OF_ACTIVATIONS: 2 * LAYERS, ROUTER: LAYERS}
    return nnx_model("Qwen3 MoE", qwen3(num_experts=4, num_experts_per_tok=2), weights, left)


def llama3() -> Model:
    lib = network("llama3")
    sizes = {"vocab_size": VOCABULARY, "num_kv_heads": 2, "rope_theta": 10_000, "norm_eps": 1e-5}
    model = lib.Llama3(lib.ModelConfig(**SHAPE, **sizes), rngs=nnx.Rngs(0))
    weights = in_layers(*ATTENTION, *MLP) | {"lm_head/w"}
    return nnx_model("Llama 3", model, weights, IN_ATTENTION)


def gemma3() -> Model:
    lib = network("gemma3")
    sizes = {"num_embed": VOCABULARY, "num_kv_heads": 2, "sliding_window_size": 4}
    config = lib.ModelConfig(**SHAPE, **sizes, param_dtype=jnp.float32)
    model = lib.Gemma3(config, rngs=nnx.Rngs(0))
    return nnx_model("Gemma 3", model, in_layers(*GEMMA) | {EMBEDDING}, IN_ATTENTION)


def gemma4(**options: Any) -> Any:
    lib = network("gemma4")
    sizes = {"num_embed": VOCABULARY, "num_kv_heads": 2, "sliding_window_size": 4}
    kinds = (lib.AttentionType.LOCAL_SLIDING, lib.AttentionType.GLOBAL)
    config = lib.ModelConfig(
        **SHAPE, **sizes, global_key_size=32, attention_pattern=kinds, **options
    )
    return lib.Gemma4(config, rngs=nnx.Rngs(0))


def gemma4_dense() -> Model:
    """It multiplies the weight of one projection by a number before use: a new value to qpass."""
    weights = in_layers(*GEMMA, "per_layer_input_gate/w", "per_layer_projection/w") | {EMBEDDING}
    left = {**attention(LAYERS), OF_ACTIVATIONS: 1}
    return nnx_model("Gemma 4", gemma4(per_layer_input_dim=16), weights, left)


def gemma4_moe() -> Model:
    options = {"num_experts": 4, "num_experts_per_tok": 2, "expert_dim": 32}
    model = gemma4(enable_moe=True, **options)
    weights = in_layers(*GEMMA, "moe/gating_einsum", "moe/linear") | {EMBEDDING}
    left = {**attention(LAYERS), OF_ACTIVATIONS: LAYERS, APPROXIMATE_ROUTER: LAYERS}
    return nnx_model("Gemma 4 MoE", model, weights, left)


MODELS = [qwen3_dense, qwen3_moe, llama3, gemma3, gemma4_dense, gemma4_moe]


@pytest.mark.parametrize("model", MODELS, indirect=True, ids=lambda build: build.__name__)
class TestTunix(ModelTests):
    pass


def test_a_network_itself_is_transformed():
    """The model object goes in, and what comes out is called, differentiated and split like it."""
    model = qwen3(use_tied_embedding=True)
    nnx.update(model, at_width(filled(nnx.state(model)), embeddings="input_embedding"))
    positions = jnp.broadcast_to(jnp.arange(LENGTH), (BATCH, LENGTH))
    arguments = (tokens(), positions, None, causal())
    quantized = qpass.transform(model, INT8)

    def loss(model):
        return jnp.mean(model(*arguments)[0] ** 2)

    weights = {row.weight for row in quantized.plan(*arguments).rows if row.quantized}
    assert weights == in_layers(*ATTENTION, *MLP) | {EMBEDDING}
    served, _ = nnx.jit(lambda model: model(*arguments))(quantized)
    wanted, _ = nnx.jit(lambda model: model(*arguments))(model)
    assert 0 < relative(np.asarray(served), np.asarray(wanted)) < BOUND
    gradients = jax.tree.leaves(nnx.jit(nnx.grad(loss))(quantized))
    assert len(gradients) == len(jax.tree.leaves(nnx.state(model)))
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in gradients)


def test_rules_for_experts():
    """Experts in fewer bits than the rest; the router is float, though a rule fits it."""
    model = qwen3_moe()
    rules = [
        qpass.Rule(path="**/mlp/*_proj", weight="int4", act="int8", name="experts"),
        qpass.Rule(weight="int8", act="int8"),
    ]
    rows = qpass.transform(model.fn, rules).plan(model.params, *model.inputs).rows
    experts = [row for row in rows if row.scheme == "int4 x int8"]
    assert {row.weight for row in experts} == in_layers(*EXPERTS)
    assert len(experts) == LAYERS * 4 * len(EXPERTS)  # each expert is a product of its own
    rest = {row.weight for row in rows if row.scheme == "int8 x int8"}
    assert rest == in_layers(*ATTENTION) | {"lm_head/w"}
    routers = [row for row in rows if row.reason == ROUTER]
    assert len(routers) == LAYERS
