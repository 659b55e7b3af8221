"""Every setting of every TPU kernel, compiled for each generation: its memory is checked there."""

import pytest

from qpass_kernels.tpu import TPU_KERNELS
from tests.aot.devices import TPUS, lower, shapes, tpu
from tests.aot.products import call, cases

pytestmark = pytest.mark.aot
CASES, NAMES = cases(TPU_KERNELS)


@pytest.mark.parametrize("generation", TPUS)
@pytest.mark.parametrize(("kernel", "p", "number"), CASES, ids=NAMES)
def test_compiles(kernel, p, number, generation):
    lowered = lower(tpu(generation), call(kernel, p, number), *shapes(p))
    assert "tpu_custom_call" in lowered.compile().as_text()


def test_every_kernel_is_tried():
    assert {kernel.name for kernel, _, _ in CASES} == {kernel.name for kernel in TPU_KERNELS}
