"""The axes of scales follow from the contraction, for every equation, through the public API."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass

SMALL, LARGE = dict.fromkeys("BTNCKtbgeckuw", 3), {"D": 16, "d": 16, "F": 12, "f": 12, "H": 8}
SIZES = SMALL | LARGE | {"S": 2, "...": (2, 3)}

# equation, axes of the weight (the second operand) that are reduced
TABLE = [
    ("BTD,NDH->BTNH", (1,)),
    ("BSD,CKDH->CBSKH", (2,)),
    ("BTNH,NHD->BTD", (0, 1)),
    ("...F,NHF->...NH", (2,)),
    ("...H,HF->...F", (0,)),
    ("...F,NFH->...NH", (1,)),
    ("BTD,SNDH->SBTNH", (2,)),
    ("gecd,ekfd->kgecf", (3,)),
    ("btd,cfd->btcf", (2,)),
    ("BuwNH,FNH->BNuwF", (2,)),
]


def shape(term: str) -> tuple[int, ...]:
    lead = SIZES["..."] if term.startswith("...") else ()
    return (*lead, *(SIZES[letter] for letter in term.removeprefix("...")))


def logical_scale(q: qpass.QTensor) -> tuple[int, ...]:
    """Scales along each logical axis."""
    return tuple(q.scale.shape[q.physical(axis)] for axis in range(q.ndim))


def quantized(equation: str, weight: qpass.Quantizer | str, swap: bool = False) -> qpass.QTensor:
    x_term, w_term = equation.partition("->")[0].split(",")

    def fn(params, x):
        if swap:
            return jnp.einsum(f"{w_term},{x_term}->{equation.partition('->')[2]}", params["w"], x)
        return jnp.einsum(equation, x, params["w"])

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal(shape(w_term)), jnp.float32)}
    x = jax.ShapeDtypeStruct(shape(x_term), "float32")
    return qpass.transform(fn, [qpass.Rule(weight=weight)]).quantize(params, x)["w"]


@pytest.mark.parametrize("swap", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(("equation", "reduced"), TABLE)
def test_per_channel_reduces_what_the_product_contracts(equation, reduced, swap):
    q = quantized(equation, "int8", swap)
    assert logical_scale(q) == tuple(1 if d in reduced else n for d, n in enumerate(q.shape))


@pytest.mark.parametrize(("equation", "reduced"), TABLE)
def test_groups_cut_the_innermost_contracted_axis(equation, reduced):
    q = quantized(equation, qpass.int4.grouped(4))
    inner = reduced[-1]
    groups = -(-q.shape[inner] // 4)
    assert logical_scale(q) == tuple(groups if d == inner else n for d, n in enumerate(q.shape))


@pytest.mark.parametrize(("equation", "reduced"), TABLE)
def test_scales_are_the_least_that_clip_nothing(equation, reduced):
    """The larger side of a channel takes the 128 codes below zero, the other the 127 above."""
    q = quantized(equation, "int8")
    rng = np.random.default_rng(0)
    w = rng.standard_normal(q.shape).astype(np.float32)
    up, down = (side.max(axis=reduced, keepdims=True) for side in (w, -w))
    size = np.maximum(np.maximum(up, down) / 128, np.minimum(up, down) / 127)
    wanted = np.where(up > down, -size, size)
    got = np.transpose(q.scale, [q.physical(axis) for axis in range(q.ndim)])
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_per_tensor_has_one_scale():
    q = quantized("BTD,NDH->BTNH", qpass.int8.per_tensor())
    assert logical_scale(q) == (1, 1, 1)


def test_stacked_layers_have_their_own_scales_per_tensor():
    def fn(params, x):
        return jax.lax.scan(lambda h, w: (h @ w, None), x, params["w"])[0]

    params, x = {"w": jnp.ones((3, 8, 8))}, jnp.ones((2, 8))
    q = qpass.transform(fn, [qpass.Rule(weight=qpass.int8.per_tensor())]).quantize(params, x)
    assert logical_scale(q["w"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (lambda w: w.T, (8, 1)),
        (lambda w: w.T.reshape(12, 2, 4).reshape(12, 8).T.T, (8, 1)),
        (lambda w: w[::-1].T, (8, 1)),
        (lambda w: w.T.astype(jnp.bfloat16).astype(jnp.float32), (8, 1)),
    ],
    ids=["transposed", "reshaped", "reversed", "cast"],
)
def test_layout_operations_on_the_way_are_followed(read, wanted):
    def fn(params, x):
        return x @ read(params["w"])

    params, x = {"w": jnp.ones((8, 12))}, jnp.ones((2, 12))
    q = qpass.transform(fn, [qpass.Rule(weight="int8")]).quantize(params, x)["w"]
    assert logical_scale(q) == wanted


def test_fused_weight_sliced_after_reshape():
    def fn(params, x):
        w = params["qkv"].reshape(8, 3, 12)
        return tuple(x @ w[:, i] for i in range(3))

    params, x = {"qkv": jnp.ones((8, 36))}, jnp.ones((2, 8))
    q = qpass.transform(fn, [qpass.Rule(weight="int8")]).quantize(params, x)["qkv"]
    assert logical_scale(q) == (1, 36)


def test_layers_sliced_in_python_from_a_stack():
    def fn(params, x):
        for i in range(2):
            x = x @ params["w"][i]
        return x

    params, x = {"w": jnp.ones((2, 8, 8))}, jnp.ones((2, 8))
    q = qpass.transform(fn, [qpass.Rule(weight="int8")]).quantize(params, x)["w"]
    assert logical_scale(q) == (2, 1, 8)
