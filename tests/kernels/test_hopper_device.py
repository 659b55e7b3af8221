"""Kernels for Hopper on a machine with another GPU: refused with the reason, not compiled."""

from types import SimpleNamespace

import jax
import pytest

from qpass_kernels import HOPPER_KERNELS, KERNELS, select
from qpass_kernels.hopper import device
from tests.kernels.oracle import product

P = product(16, 4096, 4096, "bfloat16", "int4", group=128, out="bfloat16")


@pytest.fixture
def gpu(monkeypatch):
    def of(capability):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        found = SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "devices", lambda: [found])

    return of


@pytest.mark.parametrize("capability", ["8.0", "10.0"])
def test_other_gpus_take_another_kernel_and_the_plan_says_why(gpu, capability):
    gpu(capability)
    picked = select(KERNELS, "gpu", P)
    assert picked.kernel.name == "xla"
    reasons = {reason for _, reason in picked.refused}
    assert reasons == {f"needs compute capability 9.0; here it is {capability}"}


def test_hopper_takes_its_own(gpu):
    gpu("9.0")
    assert select(KERNELS, "gpu", P).kernel.name == "hopper_weight_only"


def test_without_a_gpu_programs_are_lowered_for_hopper():
    assert device.refusal() is None
    assert any(kernel.supports(P) is None for kernel in HOPPER_KERNELS)
