"""What the TPU kernels do after a product: interpreted against float64, and lowered."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from qpass_kernels import select
from qpass_kernels.epilogue import ACTIVATIONS, Epilogue
from qpass_kernels.tpu import TPU_CODES, TPU_KERNELS
from qpass_kernels.tpu.blocks import Config, vmem
from tests.aot.devices import shapes
from tests.kernels.oracle import product
from tests.kernels.oracle_epilogue import ALL, abstract, assert_close, operands

OVER_EDGES = Config(8, 128, 128)


@pytest.mark.parametrize(
    ("p", "epilogue"),
    [
        (product(9, 130, 300, "int8", "int8", batch=2), ALL),
        (product(9, 130, 300, "int8", "int8", group=128, out="bfloat16"), ALL),
        (product(9, 130, 300, "bfloat16", "int4", group=128), Epilogue(True, "gelu")),
        (product(9, 130, 300, "float32", "int8"), Epilogue(False, "gelu_tanh", True)),
    ],
)
def test_agrees_with_float64_over_every_edge(p, epilogue):
    p = replace(p, epilogue=epilogue)
    args = operands(p)
    kernel = select(TPU_KERNELS, "tpu", p).kernel
    run = jax.jit(lambda *a: kernel.run(p, *a, config=OVER_EDGES, interpret=True))
    assert_close(p, run(*args), args)


def test_a_layer_of_a_stack():
    p = replace(product(9, 130, 300, "int8", "int8"), epilogue=ALL)
    lhs, lhs_scale, rhs, rhs_scale, *extra = operands(p)
    stack, scales = (jnp.stack([jnp.zeros_like(x), x]) for x in (rhs, rhs_scale))
    run_stacked = TPU_CODES.run_stacked
    assert run_stacked is not None
    run = jax.jit(lambda *a: run_stacked(p, *a, config=OVER_EDGES, interpret=True))
    got = run(lhs, lhs_scale, stack, scales, jnp.int32(1), *extra)
    assert_close(p, got, (lhs, lhs_scale, rhs, rhs_scale, *extra))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_defaults_lower_without_a_tpu(activation):
    for lhs, rhs in (("int8", "int8"), ("bfloat16", "int4")):
        p = product(100, 1000, 576, lhs, rhs, out="bfloat16")
        p = replace(p, epilogue=replace(ALL, activation=activation))
        picked = select(TPU_KERNELS, "tpu", p)
        assert picked.product == p
        traced = jax.jit(lambda *a, p=p, k=picked.kernel: k.run(p, *a)).trace(
            *shapes(p), *abstract(p)
        )
        assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_gate_and_residual_take_memory():
    p = product(4096, 4096, 4096, "int8", "int8", out="bfloat16")
    more = vmem(replace(p, epilogue=ALL), OVER_EDGES) - vmem(p, OVER_EDGES)
    assert more >= 2 * 2 * 2 * OVER_EDGES.m * OVER_EDGES.n  # two arrays of 2 bytes, two blocks each
    assert TPU_CODES.configs(replace(p, epilogue=ALL))
