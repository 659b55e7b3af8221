"""Flax modules as their users write them: a Linen block, an NNX block; nothing in them changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.helpers import qtensor_paths
from tests.ops.test_bit_exact import assert_same_bits
from tests.programs import rules

linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

# quantizers of weight and activation, and how far the result may be off
SCHEMES = {
    "w8a8": ("int8", "int8", 0.05),
    "w4 g16": (qpass.int4.grouped(16), None, 0.4),
    "fp8": ("fp8_e4m3", "fp8_e4m3", 0.2),
}
WIDTH, HEADS = 32, 4


class LinenBlock(linen.Module):
    """Attention and a gated feed-forward, as usual."""

    dtype: str = "float32"

    @linen.compact
    def __call__(self, x):
        h = linen.RMSNorm(name="norm1")(x)
        x = x + linen.MultiHeadDotProductAttention(
            HEADS, name="attention", use_bias=False, dtype=self.dtype
        )(h, h)
        h = linen.RMSNorm(name="norm2")(x)
        gate = linen.Dense(3 * WIDTH, use_bias=False, name="gate", dtype=self.dtype)(h)
        up = linen.Dense(3 * WIDTH, use_bias=False, name="up", dtype=self.dtype)(h)
        return x + linen.Dense(WIDTH, name="down", dtype=self.dtype)(linen.silu(gate) * up)


class LinenDecoder(linen.Module):
    """Scanned and rematerialized blocks between a tied embedding."""

    dtype: str = "float32"

    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(48, WIDTH, name="embed", dtype=self.dtype)
        body = linen.remat(LinenBlock, prevent_cse=False)
        layers = linen.scan(
            lambda block, x, _: (block(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        x, _ = layers(body(self.dtype, name="layers"), embed(tokens), None)
        return embed.attend(linen.RMSNorm(name="norm")(x))


class NnxBlock(nnx.Module):
    def __init__(self, rngs, dtype=jnp.float32):
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.qkv = nnx.Einsum("btd,dsnh->sbtnh", (WIDTH, 3, HEADS, 8), rngs=rngs, dtype=dtype)
        self.out = nnx.Einsum("btnh,nhd->btd", (HEADS, 8, WIDTH), rngs=rngs, dtype=dtype)
        self.up = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs, dtype=dtype)
        self.down = nnx.Linear(3 * WIDTH, WIDTH, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        q, k, v = self.qkv(self.norm(x))
        x = x + self.out(nnx.dot_product_attention(q, k, v))
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


def tokens(batch=2, length=5):
    return jnp.asarray(np.random.default_rng(0).integers(0, 48, (batch, length)), jnp.int32)


LINEN_WEIGHTS = {
    "params/embed/embedding",
    *(f"params/layers/attention/{name}/kernel" for name in ("query", "key", "value", "out")),
    *(f"params/layers/{name}/kernel" for name in ("gate", "up", "down")),
}


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        (SCHEMES["w8a8"], "float32"),
        (SCHEMES["w8a8"], "bfloat16"),
        (SCHEMES["w4 g16"], "bfloat16"),
        (SCHEMES["fp8"], "float32"),
    ],
    ids=["w8a8 f32", "w8a8 bf16", "w4 bf16", "fp8 f32"],
)
def test_a_linen_decoder(scheme, dtype):
    model = LinenDecoder(dtype)
    variables = jax.jit(model.init)(jax.random.key(0), tokens())
    q = qpass.transform(model.apply, rules(*scheme[:2]))
    stored = q.quantize(variables, tokens())
    assert qtensor_paths(stored) == LINEN_WEIGHTS
    served = jax.jit(q)(stored, tokens())
    assert_same_bits(jax.jit(q)(variables, tokens()), served)
    wanted = jax.jit(model.apply)(variables, tokens())
    off = np.linalg.norm(np.float32(served) - np.float32(wanted))
    assert 0 < off < scheme[2] * np.linalg.norm(np.float32(wanted))


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        (SCHEMES["w8a8"], "float32"),
        (SCHEMES["w8a8"], "bfloat16"),
        (SCHEMES["w4 g16"], "bfloat16"),
        (SCHEMES["fp8"], "float32"),
    ],
    ids=["w8a8 f32", "w8a8 bf16", "w4 bf16", "fp8 f32"],
)
def test_an_nnx_block(scheme, dtype):
    graph, state = nnx.split(NnxBlock(nnx.Rngs(0), jnp.dtype(dtype)))

    def fn(state, x):
        return nnx.merge(graph, state)(x)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, WIDTH)), jnp.float32)
    q = qpass.transform(fn, rules(*scheme[:2]))
    stored = q.quantize(state, x)
    weights = {row.weight for row in q.plan(state, x).rows if row.scheme}
    assert weights == {f"{name}/kernel" for name in ("qkv", "out", "up", "down")}
    served = jax.jit(q)(stored, x)
    assert_same_bits(jax.jit(q)(state, x), served)
    wanted = jax.jit(fn)(state, x)
    off = np.linalg.norm(served - wanted)
    assert 0 < off < scheme[2] * np.linalg.norm(wanted)


def test_a_gradient_step_of_the_linen_decoder():
    model = LinenDecoder()
    variables = jax.jit(model.init)(jax.random.key(0), tokens())

    def loss(apply):
        def value(variables):
            logits = apply(variables, tokens())
            return -jnp.mean(jax.nn.log_softmax(logits)[..., 7])

        return value

    q = qpass.transform(model.apply, rules("int8", "int8"))
    got = jax.jit(jax.grad(loss(q)))(variables)
    wanted = jax.jit(jax.grad(loss(model.apply)))(variables)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(b)
