"""TPU kernels with something after the product, compiled for each generation: the defaults."""

from dataclasses import replace

import pytest

from qpass_kernels.epilogue import Epilogue
from qpass_kernels.tpu import TPU_KERNELS
from tests.aot.devices import TPUS, lower, shapes, tpu
from tests.aot.products import name
from tests.kernels.oracle import product
from tests.kernels.oracle_epilogue import ALL, abstract

pytestmark = pytest.mark.aot
OTHERS = (Epilogue(bias=True, activation="gelu"), Epilogue(activation="gelu_tanh"))
PRODUCTS = [
    product(*size, lhs, rhs, group=group, out="bfloat16")
    for size in [(1, 4096, 4096), (100, 1000, 576), (4096, 4096, 4096)]
    for lhs, rhs, group in [("int8", "int8", None), ("bfloat16", "int4", 128)]
]
CASES = [replace(p, epilogue=ALL) for p in PRODUCTS]
CASES += [replace(PRODUCTS[2], epilogue=epilogue) for epilogue in OTHERS]


@pytest.mark.parametrize("generation", TPUS)
@pytest.mark.parametrize("p", CASES, ids=[f"{name(p)}-{p.epilogue.activation}" for p in CASES])
def test_compiles(p, generation, record):
    kernel = next(k for k in TPU_KERNELS if k.meant_for(p))
    device = tpu(generation)
    compiled = lower(device, lambda *a: kernel.run(p, *a), *shapes(p), *abstract(p)).compile()
    assert "tpu_custom_call" in str(compiled.as_text())
    record(generation, kernel.name, f"{name(p)}, {p.epilogue}", str(kernel.configs(p)[0]))
