"""Where Qwix works: the same codes, scales and results in its dialect, with zero difference."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qpass
from qpass_kernels import KERNELS
from tests.helpers import is_qtensor
from tests.peers.qwix_product import QWIX_EINSUM, QWIX_PRODUCT
from tests.peers.qwix_side import Peer, assert_stored_alike, is_stored
from tests.programs import normal

NAMES = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
SCHEMES = (
    ("int8", "int8", None),
    ("int4", "int8", None),
    ("fp8_e4m3", "fp8_e4m3", None),
    ("int8", None, None),
    ("int8", "int8", 128),
    ("int4", None, 32),
)


class Mlp(nn.Module):
    dtype: str = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        kind = {"dtype": self.dtype, "param_dtype": self.dtype, "use_bias": self.use_bias}
        dense = functools.partial(nn.Dense, **kind)
        return dense(24)(jnp.tanh(dense(256)(x)))


class Heads(nn.Module):
    """Products over several axes."""

    @nn.compact
    def __call__(self, x):
        heads = nn.DenseGeneral((2, 8), use_bias=False)(x)
        return nn.DenseGeneral(16, axis=(-2, -1), use_bias=False)(heads)


class Einsums(nn.Module):
    """The same as einsums, and a product of two activations."""

    @nn.compact
    def __call__(self, x):
        heads = nn.Einsum((2, 16, 8), "BTD,NDH->BTNH", use_bias=False)(x)
        out = nn.Einsum((2, 8, 16), "BTNH,NHD->BTD", use_bias=False)(heads)
        return jnp.einsum("BTD,BSD->BTS", x, out)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(16, 32, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(32, 8, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.down(jnp.tanh(self.up(x)))


def call(model, x):
    return model(x)


def with_qpass(model, variables, x, scheme, kernels=KERNELS, more=()):
    """The result under jit and the stored parameters, in the dialect of Qwix."""
    weight, act, group = scheme
    text = f" g{group}" if group else ""
    rule = qpass.Rule(weight=weight + text, act=act and act + text)
    q = qpass.transform(model.apply, [rule, *more], dialect="qwix", kernels=kernels)
    stored = q.quantize(variables, x)
    return jax.jit(q)(stored, x), stored["params"]


def with_qwix(qwix: Peer, model, variables, x, scheme):
    weight, act, group = scheme
    rules = qwix.rules(NAMES.get(weight, weight), NAMES.get(act, act), tile_size=group)
    return qwix.serve(model, variables, x, rules)


def leaves(tree, is_leaf):
    return jax.tree.leaves(tree, is_leaf=is_leaf)


def assert_alike(theirs, ours):
    pairs = zip(leaves(theirs[1], is_stored), leaves(ours[1], is_qtensor), strict=True)
    kinds = [(is_stored(one), is_qtensor(other)) for one, other in pairs]
    assert {(True, True)} <= set(kinds) <= {(True, True), (False, False)}
    for one, other in zip(leaves(theirs[1], is_stored), leaves(ours[1], is_qtensor), strict=True):
        if is_stored(one):
            assert_stored_alike(one, other)
    assert theirs[0].dtype == ours[0].dtype
    np.testing.assert_array_equal(theirs[0].astype(jnp.float32), ours[0].astype(jnp.float32))


def filled(model, shape, dtype="float32"):
    """The model, with normal numbers for its parameters, also for biases, and an input."""
    rng = np.random.default_rng(0)
    x = normal(rng, shape, dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return model, jax.tree.map(lambda s: normal(rng, s.shape, s.dtype) * 0.1, shapes), x


def mlp(dtype="float32", use_bias=True):
    return filled(Mlp(dtype, use_bias), (4, 256), dtype)


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [*((s, "float32") for s in SCHEMES), *((s, "bfloat16") for s in SCHEMES[::4])],
    ids=str,
)
def test_a_served_model_agrees_with_qwix(qwix, scheme, dtype):
    """All of it, once the product is rounded as often as there."""
    args = mlp(dtype)
    ours = with_qpass(*args, scheme, (QWIX_PRODUCT,))
    assert_alike(with_qwix(qwix, *args, scheme), ours)


def test_integer_products_agree_on_the_fast_kernels_too(qwix):
    """Without biases: XLA adds Qwix's in the same step as it scales, unrounded in between.

    Kernels of qpass are sealed off from what follows, so that no result depends on it.
    """
    args = mlp(use_bias=False)
    assert_alike(with_qwix(qwix, *args, SCHEMES[0]), with_qpass(*args, SCHEMES[0]))
    args = mlp()
    theirs, ours = with_qwix(qwix, *args, SCHEMES[0])[0], with_qpass(*args, SCHEMES[0])[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert (ours != theirs).any()


@pytest.mark.parametrize(
    ("model", "kernel"),
    [(Heads(), QWIX_PRODUCT), (Einsums(), QWIX_EINSUM)],
    ids=["heads", "einsums"],
)
def test_products_with_several_axes_agree(qwix, model, kernel):
    args = filled(model, (2, 3, 16))
    both = [qpass.Rule(role="activations", act="int8")] if isinstance(model, Einsums) else []
    ours = with_qpass(*args, SCHEMES[0], (kernel,), both)
    assert_alike(with_qwix(qwix, *args, SCHEMES[0]), ours)


def test_float_parameters_agree_with_its_training(qwix):
    """The forward pass of quantized training: weights quantized on every call."""
    model, variables, x = mlp(use_bias=False)
    q = qpass.jit(model.apply, rules=[qpass.Rule(weight="int8", act="int8")], dialect="qwix")
    theirs = jax.jit(qwix.train(model).apply)(variables, x)
    np.testing.assert_array_equal(q(variables, x), theirs)


def test_an_nnx_model_agrees(qwix):
    model = Net(nnx.Rngs(0))
    x = normal(np.random.default_rng(0), (4, 16))
    q = qpass.transform(model, [qpass.Rule(weight="int8", act="int8")], dialect="qwix")
    stored = q.quantize(x)
    ours = nnx.jit(call)(stored, x)
    jax.clear_caches()
    theirs = qwix.module.quantize_model(model, qwix.module.PtqProvider(qwix.rules()), x)
    np.testing.assert_array_equal(ours, nnx.jit(call)(theirs, x))
    for name in ("up", "down"):
        kernel = getattr(stored.module, name).kernel.get_value()
        assert_stored_alike(getattr(theirs, name).kernel, kernel)


def test_the_default_dialect_differs(qwix):
    model, variables, x = mlp()
    q = qpass.jit(model.apply, rules=[qpass.Rule(weight="int8", act="int8")])
    theirs, _ = with_qwix(qwix, model, variables, x, SCHEMES[0])
    assert (q(variables, x) != theirs).any()
