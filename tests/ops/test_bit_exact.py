"""The forward of training (float parameters) equals the served forward bit for bit under jit.

Training computes codes and scales inside the program, serving gets them from `quantize`; whatever
XLA fuses around them, the results must not differ in a single bit.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import CASES, TYPES, Case, rules

# K is 40 or 20 in `CASES`: groups of 16 leave a tail, groups of 8 or 4 none
GRANULARITIES = ("tensor", "channel", 4, 8, 16)
SCHEMES = list(itertools.product(TYPES, GRANULARITIES, (False, True)))
DTYPES = ("float32", "bfloat16", "float16")
EVERY = [
    (name, scheme, DTYPES[(i + j) % 3])
    for i, name in enumerate(CASES)
    for j, scheme in enumerate(SCHEMES)
]
# Each program gets a few schemes, shifted from one program to the next, so that all have a turn.
STEP = 11
SOME = EVERY[::STEP]


def quantizer(qtype, granularity):
    if granularity == "tensor":
        return qtype.per_tensor()
    return qtype.per_channel() if granularity == "channel" else qtype.grouped(granularity)


def assert_same_bits(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))


def assert_training_equals_serving(case: Case, scheme, dtype):
    qtype, granularity, activation = scheme
    weight = quantizer(qtype, granularity)
    args = case.arguments(dtype)
    q = qpass.transform(case.fn, rules(weight, qtype if activation else None))
    qparams = q.quantize(*args)
    stored = [isinstance(qparams[name], qpass.QTensor) for name in case.params if name != "bias"]
    assert all(stored)
    served = jax.jit(q)(qparams, *args[1:])
    assert np.isfinite(np.asarray(jnp.asarray(served, jnp.float32))).all()
    assert_same_bits(jax.jit(q)(*args), served)


def name_of(value):
    return "".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("name", "scheme", "dtype"), SOME, ids=name_of)
def test_training_equals_serving(name, scheme, dtype):
    assert_training_equals_serving(CASES[name], scheme, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme", "dtype"), EVERY, ids=name_of)
def test_training_equals_serving_for_every_scheme(name, scheme, dtype):
    assert_training_equals_serving(CASES[name], scheme, dtype)


def test_every_scheme_has_a_turn():
    schemes = {scheme for _, scheme, _ in SOME}
    assert {qtype for qtype, _, _ in schemes} == set(TYPES)
    assert {(g, a) for _, g, a in schemes} == set(itertools.product(GRANULARITIES, (False, True)))
    assert {(name, dtype) for name, _, dtype in SOME} == set(itertools.product(CASES, DTYPES))


# Sizes at which XLA calls its library instead of emitting loops
WIDE = {"up": (256, 512), "bias": (512,), "down": (512, 256)}
LARGE = Case(CASES["chain"].fn, WIDE, ((33, 256),))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "scheme",
    [
        (qpass.int8, "channel", True),
        (qpass.int8, "channel", False),
        (qpass.int4, 32, False),
        (qpass.int4, 32, True),
        (qpass.fp8_e4m3, "channel", True),
    ],
    ids=name_of,
)
def test_larger_products(scheme, dtype):
    assert_training_equals_serving(LARGE, scheme, dtype)


def test_bf16_cast_of_float32_leaves_is_served_as_trained():
    """The plan stores the float32 leaf; the cast on the way must not change a bit."""
    for scheme in ((qpass.int8, "channel", True), (qpass.int4, 8, False)):
        assert_training_equals_serving(CASES["cast"], scheme, "float32")


@pytest.mark.parametrize("name", ["chain", "scanned"])
def test_a_gradient_step_sees_the_same_forward(name):
    """The value that comes with a gradient is that of the forward alone."""
    case = CASES[name]
    args = case.arguments("bfloat16")
    q = qpass.transform(case.fn, rules("int8", "int8"))
    value, _ = jax.jit(jax.value_and_grad(lambda *a: (q(*a).sum(), q(*a)), has_aux=True))(*args)
    assert_same_bits(value[1], jax.jit(q)(q.quantize(*args), *args[1:]))
