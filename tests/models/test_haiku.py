"""Haiku: the transformer of tracr, the Evoformer of AlphaFold 2, with their own random weights."""

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
    OF_ACTIVATIONS,
    Model,
    ModelTests,
    attention,
    relative,
)
from tests.ops.test_bit_exact import assert_same_bits

pytestmark = MARKS
WIDTH, LAYERS, VOCABULARY = 64, 2, 256


def transformer(tokens: jax.Array, use_dropout: bool = False) -> jax.Array:
    """A causal language model, written with the modules of tracr as tracr writes it."""
    import haiku as hk
    from tracr.transformer.model import CompiledTransformerModel, Transformer, TransformerConfig

    config = TransformerConfig(
        num_heads=4,
        num_layers=LAYERS,
        key_size=16,
        mlp_hidden_size=128,
        dropout_rate=0.1,
        causal=True,
    )

    def unembed(x, use_unembed_argmax):
        return hk.Linear(VOCABULARY, name="unembed")(x)

    model = CompiledTransformerModel(
        transformer=Transformer(config, name="transformer"),
        token_embed=hk.Embed(VOCABULARY, WIDTH, name="token_embed"),
        position_embed=hk.Embed(16, WIDTH, name="position_embed"),
        unembed=unembed,
        use_unembed_argmax=False,
        pad_token=0,
    )
    return model(tokens, use_dropout=use_dropout).unembedded_output


def tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).integers(1, VOCABULARY, (2, 8)), jnp.int32)


IN_LAYERS = ("attn/query", "attn/key", "attn/value", "attn/linear", "mlp/linear_1", "mlp/linear_2")
TRACR_WEIGHTS = {
    "compiled_transformer_model/unembed/w",
    *(f"transformer/layer_{i}/{name}/w" for i in range(LAYERS) for name in IN_LAYERS),
}


def tracr() -> Model:
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(transformer))
    params = jax.jit(net.init)(jax.random.key(0), tokens())
    left = attention(LAYERS)
    return Model(
        "tracr-pypi", "Transformer", net.apply, params, (tokens(),), frozenset(TRACR_WEIGHTS), left
    )


def evoformer_config() -> tuple[Any, Any]:
    """AlphaFold's configuration at a few channels; `zero_init` would make each last layer zero."""
    from alphafold.model.config import model_config

    config = model_config("model_1_ptm").model
    block, shared = config.embeddings_and_evoformer.evoformer, config.global_config
    shared.update(zero_init=False, bfloat16=False, subbatch_size=2)
    for name in block:
        if "num_head" in block[name]:
            block[name].num_head = 2
    block.outer_product_mean.update(num_outer_channel=8, chunk_size=4)
    for direction in ("outgoing", "incoming"):
        block[f"triangle_multiplication_{direction}"].num_intermediate_channel = 32
    return config, block


def evoformer_stack(msa: jax.Array, pair: jax.Array) -> jax.Array:
    """Blocks of a multiple alignment and of residue pairs, stacked by a scan; distances at the end.

    Rows are taken a few at a time, by a loop (`subbatch_size`).
    """
    from alphafold.model.layer_stack import layer_stack
    from alphafold.model.modules import DistogramHead, EvoformerIteration
    from alphafold.model.prng import SafeKey

    config, block = evoformer_config()
    evoformer = EvoformerIteration(block, config.global_config, is_extra_msa=False)
    masks = {"msa": jnp.ones(msa.shape[:2]), "pair": jnp.ones(pair.shape[:2])}

    def layer(activations, key):
        key, mine = key.split()
        return evoformer(activations, masks, is_training=False, safe_key=mine), key

    key = SafeKey(jax.random.key(0))
    activations, _ = layer_stack(LAYERS)(layer)({"msa": msa, "pair": pair}, key)
    head = DistogramHead(config.heads.distogram, config.global_config)
    return head(activations, {}, is_training=False)["logits"]


ATTENTION = tuple(f"attention/{name}_w" for name in ("query", "key", "value", "gating", "output"))
GATED = ("projection", "gate", "output_projection", "gating_linear")
IN_BLOCK = {
    "msa_row_attention_with_pair_bias": ("feat_2d_weights", *ATTENTION),
    "msa_column_attention": ATTENTION,
    "outer_product_mean": ("left_projection/weights", "right_projection/weights", "output_w"),
    "triangle_multiplication_outgoing": tuple(f"{name}/weights" for name in GATED),
    "triangle_multiplication_incoming": tuple(f"{name}/weights" for name in GATED),
    "triangle_attention_starting_node": ("feat_2d_weights", *ATTENTION),
    "triangle_attention_ending_node": ("feat_2d_weights", *ATTENTION),
    "msa_transition": ("transition1/weights", "transition2/weights"),
    "pair_transition": ("transition1/weights", "transition2/weights"),
}
EVOFORMER_WEIGHTS = {
    "distogram_head/half_logits/weights",
    *(f"evoformer_iteration/{m}/{name}" for m, names in IN_BLOCK.items() for name in names),
}


def with_gates(params: dict) -> dict:
    """Gates start as zeros in AlphaFold: normal numbers instead, so that their products count."""
    rng = np.random.default_rng(2)

    def drawn(name: str, leaf: jax.Array) -> jax.Array:
        if name != "gating_w":
            return leaf
        inputs = leaf.shape[1]  # behind the axis of layers
        return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(inputs), leaf.dtype)

    return {m: {n: drawn(n, leaf) for n, leaf in own.items()} for m, own in params.items()}


def evoformer() -> Model:
    import haiku as hk

    keys = jax.random.split(jax.random.key(1))
    inputs = jax.random.normal(keys[0], (4, 6, 32)), jax.random.normal(keys[1], (6, 6, 32))
    net = hk.without_apply_rng(hk.transform(evoformer_stack))
    # Run once: optimizing the initialisers would take three times as long as compiling them.
    init = jax.jit(net.init, compiler_options={"xla_backend_optimization_level": 0})
    params = with_gates(init(jax.random.key(0), *inputs))
    weights, left = frozenset(EVOFORMER_WEIGHTS), {**attention(4), OF_ACTIVATIONS: 4}
    return Model("alphafold-colabfold", "Evoformer", net.apply, params, inputs, weights, left)


MODELS = [tracr, evoformer]


@pytest.mark.parametrize("model", MODELS, indirect=True, ids=lambda build: build.__name__)
class TestHaiku(ModelTests):
    pass


def tracr_with_dropout() -> tuple[Any, Any]:
    import haiku as hk

    net = hk.transform(transformer)
    return net, jax.jit(net.init)(jax.random.key(0), tokens())


def test_dropout_draws_the_same_numbers():
    """The key, a flag by name: rules that keep everything change no bit."""
    net, params = tracr_with_dropout()

    def run(fn):
        jitted = jax.jit(fn, static_argnames="use_dropout")
        return jitted(params, jax.random.key(3), tokens(), use_dropout=True)

    wanted = run(net.apply)
    assert_same_bits(run(qpass.transform(net.apply, [qpass.Rule(keep=True)])), wanted)
    assert relative(run(qpass.transform(net.apply, INT8)), wanted) < BOUND


def test_rules_name_haiku_s_modules():
    net, params = tracr_with_dropout()
    rules = [
        qpass.Rule(path="transformer/layer_1/mlp/**", weight="int4"),
        qpass.Rule(path="transformer/**", weight="int8", act="int8"),
    ]
    q = qpass.transform(net.apply, rules)
    schemes = {row.weight: row.scheme for row in q.plan(params, None, tokens()).rows if row.weight}
    int4 = {weight for weight, scheme in schemes.items() if scheme.startswith("int4")}
    assert int4 == {f"transformer/layer_1/mlp/linear_{k}/w" for k in (1, 2)}
    assert not schemes["compiled_transformer_model/unembed/w"]
    stored = q.quantize(params, None, tokens())
    assert qtensor_paths(stored) == TRACR_WEIGHTS - {"compiled_transformer_model/unembed/w"}


def test_batch_statistics_are_updated_as_before():
    """`transform_with_state`: the state is an argument and a result of the quantized function."""
    import haiku as hk

    def forward(x, is_training):
        x = hk.Linear(32)(x)
        x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training)
        return hk.Linear(4)(jax.nn.relu(x))

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    x = jax.random.normal(jax.random.key(0), (16, 8))
    params, state = net.init(jax.random.key(1), x, True)
    rules = [qpass.Rule(path="linear/**", keep=True), qpass.Rule(weight="int8", act="int8")]
    q = jax.jit(qpass.transform(net.apply, rules), static_argnames="is_training")
    apply = jax.jit(net.apply, static_argnames="is_training")
    wanted, wanted_state = apply(params, state, x, is_training=True)
    got, got_state = q(params, state, x, is_training=True)
    assert 0 < relative(got, wanted) < BOUND
    for a, b in zip(jax.tree.leaves(got_state), jax.tree.leaves(wanted_state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(got_state["batch_norm/~/mean_ema"]["average"] != 0)
