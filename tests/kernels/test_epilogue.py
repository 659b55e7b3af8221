"""What follows a product: the formula against float64, and kernels that do not know it."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_kernels import CPU, KERNELS, REFERENCE, Kernel, select
from qpass_kernels.epilogue import ACTIVATIONS, NOTHING, Epilogue
from qpass_kernels.kernel import run_whole
from tests.kernels.oracle import product
from tests.kernels.oracle_epilogue import ALL, assert_close, operands


def chosen(kernels, p, args):
    picked = select(kernels, "cpu", p)
    return run_whole(p, picked.kernel.run, picked.product, *args)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rest", [(), ("bias",), ("multiply", "residual")])
@pytest.mark.parametrize("out", ["float32", "bfloat16"])
def test_reference_computes_the_definition(activation, rest, out):
    epilogue = Epilogue(activation=activation, **dict.fromkeys(rest, True))
    p = replace(product(5, 7, 24, "int8", "int8", batch=2, out=out), epilogue=epilogue)
    args = operands(p)
    assert_close(p, chosen((REFERENCE,), p, args), args)


@pytest.mark.parametrize(
    "p", [product(3, 8, 64, "int8", "int8"), product(3, 8, 64, "float32", "int8", group=16)]
)
def test_every_kernel_of_the_table_for_cpu_gets_what_it_knows(p):
    p = replace(p, epilogue=ALL, out="bfloat16")
    args = operands(p)
    assert_close(p, chosen(KERNELS, p, args), args)
    assert_close(p, chosen((CPU, REFERENCE), p, args), args)


def test_a_kernel_that_does_not_fuse_is_asked_for_float32_sums():
    p = replace(product(3, 8, 64, "int8", "int8", out="bfloat16"), epilogue=ALL)
    picked = select((REFERENCE,), "cpu", p)
    assert picked.product == replace(p, epilogue=NOTHING, out="float32")
    fusing = Kernel("fusing", (), lambda p: None, lambda *a: None, fuses=lambda p: True)
    assert select((fusing,), "cpu", p).product == p


def test_nothing_follows_by_default_and_the_result_keeps_its_type():
    p = product(3, 8, 64, "int8", "int8", out="bfloat16")
    assert p.epilogue == NOTHING
    assert not p.epilogue
    assert ALL
    assert select((REFERENCE,), "cpu", p).product == p


def test_operands_are_named_in_their_order():
    assert ALL.operands == ("bias", "multiply", "residual")
    assert NOTHING.operands == ()
    assert str(ALL) == "+ bias, silu, * other, + residual"


def test_an_unknown_activation_is_an_error():
    with pytest.raises(ValueError, match=r"'mish'; allowed here: none, relu"):
        Epilogue(activation="mish")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("relu", jax.nn.relu),
        ("silu", jax.nn.silu),
        ("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
        ("gelu_tanh", jax.nn.gelu),
    ],
)
def test_activations_are_those_of_jax(name, theirs):
    x = jnp.linspace(-12, 12, 4001, dtype=jnp.float32)
    off = np.abs(np.asarray(ACTIVATIONS[name](x), np.float64) - np.asarray(theirs(x), np.float64))
    assert off.max() <= 4e-6
    assert math.isinf(float(ACTIVATIONS[name](jnp.float32(np.inf))))
