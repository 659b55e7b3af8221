"""Every numeric type in a product, alone and in both operands, against float64.

Training (float parameters) equals serving (stored ones) bit for bit under jit for each of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import QTYPES, as_quantizer, quantize
from tests.ops.test_bit_exact import assert_same_bits
from tests.programs import CASES, rules

NAMES = [qtype.name for qtype in QTYPES]


def real(x, quantizer, axis):
    """An array quantized and back, in float64."""
    if quantizer is None:
        return np.float64(x)
    return np.float64(quantize(jnp.asarray(x), as_quantizer(quantizer), (axis,)).dequantize())


@pytest.mark.parametrize("act", [None, pytest.param("int8", marks=pytest.mark.slow), "same"])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_float64_and_training_equals_serving(name, act):
    """K = 40 leaves a tail of the blocks of 16 and of 32."""
    case, act = CASES["matmul"], name if act == "same" else act
    params, x = case.arguments()
    q = qpass.transform(case.fn, rules(name, act))
    qparams = q.quantize(params, x)
    assert isinstance(qparams["w"], qpass.QTensor)
    served = jax.jit(q)(qparams, x)
    wanted = real(x, act, 1) @ real(params["w"], name, 0)
    np.testing.assert_allclose(served, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert_same_bits(jax.jit(q)(params, x), served)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_of_the_table_are_named(name):
    """The kernels that come before the one taken say why they refuse."""
    case = CASES["matmul"]
    q = qpass.transform(case.fn, rules(name))
    for platform in ("cpu", "cuda", "tpu"):
        (row,) = q.plan(*case.arguments("bfloat16"), platform=platform).rows
        assert row.kernel
        assert all(reason for _, reason in row.refused)
