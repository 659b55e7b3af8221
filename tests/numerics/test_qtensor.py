import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from qpass.errors import CorruptTensorError, QPassError, QuantizeError
from qpass.numerics import QTensor, as_quantizer, int4, int8, quantize
from qpass.numerics.export import register_serialization
from tests.numerics import oracle
from tests.numerics.tensors import SPECS, tensor

WEIGHT = tensor((3, 10, 6), ("int4 g4", jnp.float32), (1,), (0,), pack=True)


def test_fields():
    q = WEIGHT
    assert q.shape == (3, 10, 6)
    assert (q.ndim, q.size) == (3, 180)
    assert (q.codes.shape, q.scale.shape) == ((3, 6, 10), (3, 6, 3))
    assert (q.codes.dtype, q.scale.dtype, q.dtype) == (jnp.int4, jnp.float32, jnp.float32)
    assert (q.groups, q.order) == (((-2, 4),), (-1, -2))
    assert q.blocks == (1, 4, 1)
    assert [q.physical(axis) for axis in (0, 1, 2, -1)] == [0, 2, 1, 1]


@pytest.mark.parametrize("shape", [(3,), (3, 5), (64, 64), (0, 4), (2, 3, 7)])
@pytest.mark.parametrize("name", ["int8", "int4", "int4 g2", "fp8_e4m3"])
def test_bytes_are_those_of_the_buffers(name, shape):
    q = quantize(oracle.sample(shape, jnp.bfloat16), as_quantizer(name), (0,))
    buffers = q.codes.on_device_size_in_bytes() + q.scale.on_device_size_in_bytes()
    assert q.nbytes == buffers
    assert q.float_nbytes == oracle.sample(shape, jnp.bfloat16).on_device_size_in_bytes()


def test_int4_takes_half_a_byte_in_every_layout():
    q = dataclasses.replace(tensor((64, 32), ("int4 g32", jnp.float32), pack=True), latent=None)
    for got in (q, q.transpose((1, 0)), q.reshape((2, 32, 32)), q.in_order(), q.rev((1,))):
        assert got.codes.dtype == jnp.int4
        assert got.codes.on_device_size_in_bytes() == 1024
    assert q.nbytes <= 0.20 * q.float_nbytes


def test_dequantize_is_what_the_fields_say():
    for spec in SPECS:
        for pack in (False, True):
            q = tensor((3, 10, 6), spec, (1,), (0,), pack)
            wide = oracle.values(q)
            oracle.same(q.dequantize(), jnp.asarray(wide.astype(np.float32)).astype(q.dtype))


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=[name for name, _ in SPECS])
def test_same_bits_from_every_context(spec, pack):
    name, dtype = spec

    def step(row):
        return quantize(row * row, as_quantizer(name), (0,), pack=pack)

    x = oracle.sample((4, 10, 6), dtype)
    runs = {how: run(x) for how, run in oracle.eager_jit_vmap_scan(step).items()}
    runs["stacked"] = quantize(x * x, as_quantizer(name), (1,), (0,), pack=pack)
    for q in runs.values():
        assert (q.qtype, q.groups, q.order) == (runs["eager"].qtype, *_layout(runs["eager"]))
        q.check()
        got, wanted = (jax.tree.leaves(t.plain()) for t in (q, runs["eager"]))
        for array, same in zip(got, wanted, strict=True):
            oracle.same(array, same)


def _layout(q):
    return q.groups, q.order


def test_no_gradient_flows_through_codes_and_scales():
    def f(x):
        return jnp.sum(quantize(x, int8.per_channel(), (0,)).dequantize() ** 2)

    assert not np.asarray(jax.grad(f)(oracle.sample((4, 5)))).any()
    assert not np.asarray(jax.jit(jax.grad(f))(oracle.sample((4, 5), jnp.float16))).any()


def test_latent_is_part_of_the_tree():
    leaves = jax.tree.leaves(WEIGHT)
    assert [leaf.shape for leaf in leaves] == [(3, 6, 10), (3, 6, 3), (3, 10, 6)]
    assert len(jax.tree.leaves(dataclasses.replace(WEIGHT, latent=None))) == 2


def test_paths_name_the_fields():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path({"w": WEIGHT})]
    assert paths == ["['w'].codes", "['w'].scale", "['w'].latent"]


def test_equal_metadata_is_equal_structure():
    """So that jit does not compile again for another tensor of the same kind."""
    other = tensor((3, 10, 6), ("int4 g4", jnp.dtype("float32")), (1,), (0,), pack=True)
    assert jax.tree.structure(WEIGHT) == jax.tree.structure(other)
    assert hash(jax.tree.structure(WEIGHT)) == hash(jax.tree.structure(other))
    traces = []

    @jax.jit
    def f(q):
        traces.append(q)
        return q.dequantize()

    f(WEIGHT), f(other)
    assert len(traces) == 1


def test_eval_shape():
    x = jax.ShapeDtypeStruct((3, 10, 6), jnp.bfloat16)
    q = jax.eval_shape(lambda x: quantize(x, int4.grouped(4), (1,), (0,), pack=True), x)
    assert (q.shape, q.nbytes, q.float_nbytes) == ((3, 10, 6), 90 + 4 * 54, 360)
    q.check("abstract")
    assert jax.eval_shape(QTensor.dequantize, q) == x
    assert jax.eval_shape(lambda q: q.reshape((3, 10, 2, 3)), q).shape == (3, 10, 2, 3)


def test_trees_of_anything_can_be_made():
    for leaf in (None, object(), "x", 0):
        q = jax.tree.map(lambda _, leaf=leaf: leaf, WEIGHT)
        assert "QTensor(int4 of float32" in repr(q)
    assert jax.tree.map(lambda x: x, WEIGHT).shape == WEIGHT.shape


def test_repr_is_one_short_line():
    assert repr(WEIGHT) == (
        "QTensor(int4 of float32, codes=int4[3, 6, 10], scale=float32[3, 6, 3], "
        "groups=((-2, 4),), order=(-1, -2))"
    )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, bool, jnp.complex64])
def test_only_floats_can_be_quantized(dtype):
    with pytest.raises(QuantizeError, match="Only float arrays"):
        quantize(jnp.zeros((2, 3), dtype), int8.per_channel(), (0,))


def test_a_scalar_can_be_quantized():
    q = quantize(jnp.float32(3), int8.per_tensor(), ())
    assert (q.shape, q.scale.shape) == ((), ())
    assert float(q.dequantize()) == pytest.approx(3)
    assert q.reshape((1, 1)).squeeze((0,)).shape == (1,)


@pytest.mark.parametrize("spec", SPECS, ids=[name for name, _ in SPECS])
@pytest.mark.parametrize("pack", [False, True])
def test_good_tensors_pass_the_check(spec, pack):
    tensor((3, 10, 6), spec, (1,), (0,), pack).check("w")
    tensor((0, 10), spec, (0,), (), pack).check("w")


FAULTS = {
    "codes dtype": ({"codes": jnp.zeros((3, 6, 10), jnp.int8)}, "codes of dtype int4, not int8"),
    "scale dtype": ({"scale": jnp.ones((3, 6, 3), jnp.bfloat16)}, "float32, not bfloat16"),
    "rank": ({"scale": jnp.ones((6, 3))}, "codes have 3 axes and scale has 2"),
    "scales": ({"scale": jnp.ones((3, 6, 4))}, "axis 1 of size 10 has 4 scales, not 3"),
    "ungrouped": ({"groups": ()}, "axis 1 of size 10 has 3 scales, not 1 or 10"),
    "other axis": ({"groups": ((-1, 4),)}, "axis 2 of size 6 has 6 scales, not 2"),
    "no axis": ({"groups": ((-4, 4),)}, "groups name axis -4 of 3"),
    "group size": ({"groups": ((-2, 1),)}, "axis 1 of size 10 is cut in groups of 1"),
    "order": ({"order": (-1, -1)}, "no permutation"),
    "order too long": ({"order": (-4, -1, -2, -3)}, "no permutation"),
    "latent shape": ({"latent": jnp.zeros((3, 6, 10))}, r"float32\[3, 6, 10\], not float32\[3, 10"),
    "latent dtype": ({"latent": jnp.zeros((3, 10, 6), jnp.int8)}, r"int8\[3, 10, 6\]"),
    "no array": ({"codes": None}, "have to be arrays"),
    "codes shape": ({"codes": jnp.zeros((3, 6, 11), jnp.int4)}, "latent is"),
}


@pytest.mark.parametrize(("change", "text"), FAULTS.values(), ids=FAULTS)
def test_corrupt_tensors_fail_the_check(change, text):
    with pytest.raises(CorruptTensorError, match=text) as error:
        dataclasses.replace(WEIGHT, **change).check("layers/mlp/up")
    assert "layers/mlp/up" in str(error.value)
    assert isinstance(error.value, QPassError)


def test_serialization_is_registered_on_import():
    with pytest.raises(ValueError, match="Duplicate"):
        register_serialization()


@pytest.mark.parametrize("spec", SPECS, ids=[name for name, _ in SPECS])
def test_exported_functions_take_tensors(spec):
    pytest.importorskip("flatbuffers", reason="jax.export writes files with it")

    def f(q, x):
        return x @ q.dequantize()

    q = dataclasses.replace(tensor((10, 6), spec, pack=True), latent=None)
    x = oracle.sample((5, 10), q.dtype)
    stored = export.export(jax.jit(f))(q, x).serialize()
    back = export.deserialize(stored)
    oracle.same(back.call(q, x), jax.jit(f)(q, x))
    assert back.in_tree == jax.tree.structure(((q, x), {}))


def test_symbolic_rows():
    """Activations whose leading axis has no number yet, as in export."""
    (rows,) = export.symbolic_shape("rows")

    def f(x):
        q = quantize(x, int8.per_channel(), (1,))
        return q.canonical((), (0,), (1,))[:2], q.transpose((1, 0)).dequantize()

    run = export.export(jax.jit(f))(jax.ShapeDtypeStruct((rows, 8), jnp.float32))
    x = oracle.sample((5, 8))
    for got, wanted in zip(jax.tree.leaves(run.call(x)), jax.tree.leaves(f(x)), strict=True):
        oracle.same(got, wanted)
