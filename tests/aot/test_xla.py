"""What XLA makes of products on an H200 where no kernel of ours takes them.

Without a device to measure on, the compiler takes its own matrix products over cuBLASLt's, so
those are switched off here: what is shown is that the program has the form that cuBLASLt takes.
"""

import re

import pytest

from qpass_kernels import REFERENCE, XLA, select
from tests.aot.devices import h200, lower, shapes
from tests.kernels.oracle import product

pytestmark = pytest.mark.aot
LIBRARY = {"xla_gpu_enable_triton_gemm": False}
EIGHT_BITS = "__cublas$lt$matmul$f8"
OTHERS = "__cublas$lt$matmul"


def compiled(p, options=None):
    kernel = select((XLA, REFERENCE), "cuda", p).kernel
    lowered = lower(h200(), lambda *a: kernel.run(p, *a), *shapes(p))
    return kernel, lowered.compile(compiler_options=options or {}).as_text()


def library_calls(text):
    """[(target, type of its result)] of calls to cuBLASLt."""
    found = re.findall(r"= \(?(\w+)\[.*custom_call_target=\"(__cublas[^\"]*)\"", text)
    return [(target, kind) for kind, target in found]


@pytest.mark.parametrize("rhs", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_goes_to_cublaslt(rhs):
    p = product(512, 4096, 4096, "float8_e4m3fn", rhs, out="bfloat16")
    kernel, text = compiled(p, LIBRARY)
    assert kernel is XLA
    assert library_calls(text) == [(EIGHT_BITS, "f32")]
    assert "bf16[4096,4096]" not in text  # no decoded weight
    assert '"operand_precision":["HIGHEST","HIGHEST"]' in text


def test_integers_go_to_cublaslt():
    p = product(512, 4096, 4096, "int8", "int8", out="bfloat16")
    kernel, text = compiled(p, LIBRARY)
    assert kernel is XLA
    assert library_calls(text) == [(OTHERS, "s32")]
    assert " transpose(" not in text  # the weight lies as the library wants it


def test_a_weight_with_row_scales_is_decoded_inside_the_product():
    p = product(512, 4096, 4096, "bfloat16", "int8", out="bfloat16")
    _, text = compiled(p)
    assert "__triton_nested_gemm_fusion" in text
    assert "bf16[4096,4096]" not in text[text.index("ENTRY") :]
    assert library_calls(text) == []


def test_a_grouped_weight_becomes_16_bits_and_one_product():
    p = product(512, 4096, 4096, "bfloat16", "int4", group=128, out="bfloat16")
    kernel, text = compiled(p, LIBRARY)
    assert kernel is XLA
    assert library_calls(text) == [(OTHERS, "f32")]
    assert "while(" not in text


def test_scaled_codes_would_be_multiplied_as_bfloat16():
    """Why products are scaled after the sum: the other order loses the instruction."""
    p = product(512, 4096, 4096, "float8_e4m3fn", "float8_e4m3fn", out="bfloat16")

    def scaled_before(lhs, lhs_scale, rhs, rhs_scale):
        lhs, rhs = (
            (x.astype("float32") * s).astype("bfloat16")
            for x, s in ((lhs, lhs_scale), (rhs, rhs_scale))
        )
        return lhs[0] @ rhs[0].T

    text = lower(h200(), scaled_before, *shapes(p)).compile(compiler_options=LIBRARY).as_text()
    assert [target for target, _ in library_calls(text)] == [OTHERS]
