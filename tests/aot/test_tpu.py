"""TPU kernels compiled for each generation: whether they fit its memory is found there."""

import pytest

from qpass_kernels.tpu import TPU_KERNELS
from tests.aot.devices import TPUS, lower, shapes, tpu
from tests.aot.products import call, cases, config, name, ragged_cases

pytestmark = pytest.mark.aot
CASES, NAMES = cases(TPU_KERNELS)
RAGGED, RAGGED_NAMES = ragged_cases(TPU_KERNELS)


@pytest.mark.parametrize("generation", TPUS)
@pytest.mark.parametrize(("kernel", "p", "number"), CASES + RAGGED, ids=NAMES + RAGGED_NAMES)
def test_compiles(kernel, p, number, generation, record):
    lowered = lower(tpu(generation), call(kernel, p, number), *shapes(p))
    assert "tpu_custom_call" in lowered.compile().as_text()
    record(generation, kernel.name, name(p), config(kernel, p, number))


def test_every_kernel_is_tried():
    assert {kernel.name for kernel, _, _ in CASES} == {kernel.name for kernel in TPU_KERNELS}
