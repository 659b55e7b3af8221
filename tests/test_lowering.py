"""One traced program for every platform: what its lowered module holds, without any device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import qpass
from qpass_kernels import KERNELS, REFERENCE, portable
from tests.helpers import with_compiled_kernels
from tests.programs import CASES, rules

SCHEMES = {
    "w8a8": ("int8", "int8"),
    "w8": ("int8", None),
    "w4 g128": (qpass.int4.grouped(128), None),
}
# What a Pallas kernel is called in a lowered module
CUSTOM_CALLS = {"tpu": "tpu_custom_call", "cuda": "mosaic_gpu"}


def fn(p, x):
    return jnp.tanh(x @ p["up"]) @ p["down"]


def arguments(dtype="bfloat16"):
    shapes = {"up": (512, 1024), "down": (1024, 512)}
    params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
    return params, jax.ShapeDtypeStruct((256, 512), dtype)


def lowered(q, args, *platforms):
    return jax.jit(q).trace(*args).lower(lowering_platforms=platforms).as_text()


@pytest.mark.parametrize("stored", [False, True], ids=["float", "stored"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("platform", CUSTOM_CALLS)
def test_the_module_holds_the_kernels_that_the_plan_names(platform, scheme, stored):
    q = qpass.transform(fn, rules(*scheme))
    params, x = arguments()
    kernels = {row.kernel for row in q.plan(params, x, platform=platform).rows}
    assert kernels <= {k.name for k in KERNELS if platform in k.platforms}, "a kernel of its own"
    text = lowered(q, (q.quantize(params, x) if stored else params, x), platform)
    assert text.count(CUSTOM_CALLS[platform]) >= 1
    other = next(call for name, call in CUSTOM_CALLS.items() if name != platform)
    assert other not in text


@pytest.mark.parametrize("platform", CUSTOM_CALLS)
def test_the_reference_needs_no_custom_call(platform):
    q = qpass.transform(fn, rules("int8", "int8"), kernels=(REFERENCE,))
    assert CUSTOM_CALLS[platform] not in lowered(q, arguments(), platform)


def test_cpu_takes_its_own_path():
    text = lowered(qpass.transform(fn, rules("int8", "int8")), arguments(), "cpu")
    assert not any(call in text for call in CUSTOM_CALLS.values())
    assert "xi8>" in text


def test_integers_are_multiplied_as_integers():
    """The product is `dot(i8, i8) -> i32`, and scales come after it."""
    q = qpass.transform(fn, rules("int8", "int8"), kernels=portable(KERNELS))
    text = lowered(q, arguments(), "cpu")
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) == 2
    assert all("xi8>" in line and "xi32>" in line for line in dots)


@with_compiled_kernels
def test_compiled_kernels_are_called_here_and_not_exported():
    q = qpass.transform(fn, rules("int8", "int8"))
    assert "QpassInteger" in lowered(q, arguments(), "cpu")
    exported = export.export(jax.jit(q), platforms=("cpu",))(*arguments())
    assert "QpassInteger" not in exported.mlir_module()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_one_exported_program_for_every_platform(scheme):
    q = qpass.transform(fn, rules(*scheme))
    params, x = arguments()
    qparams = q.quantize(params, x)
    exported = export.export(jax.jit(q), platforms=("cpu", "cuda", "tpu"))(qparams, x)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert all(call in exported.mlir_module() for call in CUSTOM_CALLS.values())


def test_an_exported_program_is_saved_and_run():
    case = CASES["chain"]
    params, x = case.arguments()
    q = qpass.transform(case.fn, rules("int8", "int8"))
    qparams = q.quantize(params, x)
    data = export.export(jax.jit(q))(qparams, x).serialize()
    np.testing.assert_array_equal(export.deserialize(data).call(qparams, x), jax.jit(q)(qparams, x))


def test_a_symbolic_number_of_rows():
    case = CASES["chain"]
    params, x = case.arguments()
    q = qpass.transform(case.fn, rules("int8", "int8"))
    qparams = q.quantize(params, x)
    (rows,) = export.symbolic_shape("rows")
    symbolic = jax.ShapeDtypeStruct((rows, 24), x.dtype)
    exported = export.export(jax.jit(q))(qparams, symbolic)
    for n in (1, 2, 5):
        got = exported.call(qparams, x[:n])
        np.testing.assert_allclose(got, jax.jit(q)(qparams, x[:n]), rtol=1e-6, atol=1e-6)
