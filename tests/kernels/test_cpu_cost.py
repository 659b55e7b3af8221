"""What is said beforehand of products on CPU: held against what was measured."""

import dataclasses
import re
from itertools import product as cross

import jax
import pytest

from qpass_bench.cases.catalogue import GEMMA3, LLAMA_8B, SMOLLM2, layers_of
from qpass_kernels import CPU, KERNELS, NATIVE_KERNELS, Kernel
from qpass_kernels.cpu_cost import FLOAT32, REASONS, Costs, warning
from qpass_kernels.kernel import Chores
from tests.kernels.oracle import product

INTEGER, FLOATING = NATIVE_KERNELS


def w8a8(m, k, n):
    return product(m, n, k, "int8", "int8")


def w8(m, k, n):
    return product(m, n, k, "float32", "int8")


def w4(m, k, n):
    return product(m, n, k, "float32", "int4", group=32)


SLOW = [  # M, K, N; measured at most 0.5 times as fast as float32
    (INTEGER, w8a8(300, 1, 1), False),
    (INTEGER, w8a8(165, 1684, 1), False),
    (INTEGER, w8a8(3, 28, 4), False),
    (FLOATING, w4(300, 32, 2), False),
    (FLOATING, w4(2, 640, 42), True),
    (FLOATING, w8(259, 111, 2708), False),
    (CPU, w8a8(165, 1684, 1), False),
    (CPU, w8(96, 1788, 1951), False),
    (CPU, w4(11, 3840, 3649), True),
]


@pytest.mark.parametrize(("kernel", "p", "padded"), SLOW)
def test_products_that_were_measured_slow_are_warned_of(kernel: Kernel, p, padded):
    said = kernel.slow(p, Chores(padded))
    assert re.fullmatch(r"about 0\.\d+× of float32's speed here: .*", said)
    assert said.endswith(REASONS)


@pytest.mark.parametrize("sizes", [SMOLLM2, GEMMA3, LLAMA_8B], ids=lambda sizes: sizes.name)
def test_products_of_models_are_not(sizes):
    """Of all rows int8 by int8, where it is decoded a token at a time also weight-only ones."""
    for (name, k, n), m in cross(layers_of(sizes), (1, 4, 16, 128, 512)):
        if n * k > 2**18:  # smaller ones pay for the call
            assert INTEGER.slow(w8a8(m, k, n), Chores()) == "", (name, m)
            for scheme in (w8, w4) if m == 1 else ():
                assert FLOATING.slow(scheme(m, k, n), Chores()) == "", (name, scheme)


@pytest.mark.parametrize("size", ["batch", "m", "n", "k"])
def test_no_part_takes_less_time_when_a_size_grows(size):
    small = product(3, 5, 64, "int8", "int8", batch=2, group=32)
    large = dataclasses.replace(small, **{size: 2 * getattr(small, size)})
    costs = Costs(1, 1, 1, 1, 1, 1)
    before, after = (costs.parts(p, Chores(padded=True)) for p in (small, large))
    assert all(a <= b for a, b in zip(before, after, strict=True))
    assert sum(after) > sum(before)


@pytest.mark.parametrize("number", range(6))
def test_the_reason_is_the_part_that_costs_most(number):
    parts = [*dataclasses.astuple(FLOAT32)]
    parts[number] += 1e6
    assert warning(Costs(*parts), w8a8(4, 64, 8), Chores(padded=True)).endswith(REASONS[number])


def test_a_copy_of_the_weight_is_a_reason():
    assert warning(FLOAT32, w4(4, 2048, 2048), Chores(padded=True)).endswith(REASONS[-1])


def test_decoding_the_weight_is_a_reason():
    p = w8a8(1, 2048, 2048)
    assert INTEGER.slow(p, Chores()) == ""
    assert INTEGER.slow(p, Chores(decoded="int3")).endswith("each call decodes the weight")


def test_activations_that_no_kernel_quantizes_are_a_reason():
    p = product(2, 71, 2114, "int8", "int4", group=32)  # measured 0.61 times as fast as float32
    assert INTEGER.slow(p, Chores()) == ""
    assert "XLA quantizes the activations" in INTEGER.slow(p, Chores(formula=True))


def test_what_costs_as_much_as_float_is_not_spoken_of():
    assert warning(FLOAT32, w8a8(4, 64, 8), Chores()) == ""


def test_symbolic_sizes_are_not_judged():
    (m,) = jax.export.symbolic_shape("m")
    for kernel in (*NATIVE_KERNELS, CPU):
        assert kernel.slow(dataclasses.replace(w8a8(1, 1684, 1), m=m), Chores()) == ""


def test_kernels_of_other_platforms_say_nothing():
    others = [kernel for kernel in KERNELS if kernel.platforms != ("cpu",)]
    assert not any(kernel.slow(w8a8(300, 1, 1), Chores(True)) for kernel in others)
