"""7. `preferred_element_type` and `precision` were lost."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from tests.peers.common import INT8
from tests.peers.qwix_side import as_module
from tests.programs import CASES, rules

SCHEMES = (INT8, rules("int8"), rules(qpass.int4.grouped(8)))


def product(p, x):
    return jnp.einsum(
        "mk,kn->mn", x, p["w"], preferred_element_type=jnp.float32, precision="highest"
    )


def total(p, x):
    return jnp.matmul(x, p["w"], precision="highest").sum()


@pytest.mark.parametrize("given", SCHEMES, ids=["W8A8", "W8", "W4 g8"])
def test_bf16_operands_with_a_float32_result(given):
    params, x = CASES["matmul"].arguments("bfloat16")
    q = qpass.transform(product, given)
    assert q(params, x).dtype == q(q.quantize(params, x), x).dtype == jnp.float32


@pytest.mark.parametrize("given", SCHEMES, ids=["W8A8", "W8", "W4 g8"])
def test_the_precision_of_products_for_gradients_is_that_asked(given):
    args = CASES["matmul"].arguments()
    text = str(jax.make_jaxpr(jax.grad(qpass.transform(total, given)))(*args))
    backward = [line for line in text.splitlines() if " dot_general[" in line]
    assert len(backward) == 1
    assert text.count("Precision.HIGHEST") == 2  # one of each operand


def test_qwix_drops_both_when_it_serves(qwix):
    params, x = CASES["matmul"].arguments("bfloat16")
    quantized, stored = qwix.store(as_module(product, params), {"params": params}, x)
    jaxpr = jax.make_jaxpr(quantized.apply)(stored, x)
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16
    assert "HIGHEST" not in str(jaxpr)
