"""Quantizing rows as a primitive: one formula, whoever computes it, under every transformation.

The kernel here gives scales a thousand times too large, so that the numbers tell who was asked.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from qpass.numerics import QWIX, fp8_e4m3, int4, int8, quantize
from qpass.ops.rows import describe, is_by_rows, quantize_rows
from qpass_kernels import KERNELS, REFERENCE, portable
from qpass_kernels.native import why_not
from qpass_kernels.row_quantizer import RowQuantizer, Rows

X = jax.random.normal(jax.random.key(0), (3, 4, 24)) * 7


def _marked(rows, x):
    q = quantize(x, int8.grouped(rows.group), (1,))
    return q.codes, q.scale * 1000


MARKED = (replace(REFERENCE, local=True, rows=RowQuantizer(lambda rows: None, _marked)), REFERENCE)


INT8 = int8.as_quantizer()


def by_table(x, kernels=MARKED, quantizer=INT8, contract=1):
    q = quantize_rows(x, quantizer, contract, kernels)
    return q.codes, q.scale


def by_formula(x, quantizer=INT8, contract=1):
    q = quantize(x, quantizer, tuple(range(x.ndim - contract, x.ndim)))
    return q.codes, q.scale


def assert_same(got, want, factor=1):
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1] * jnp.float32(factor))


TRANSFORMS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "vmap over a row": lambda f: lambda x: jax.vmap(f, 2, 2)(x.reshape(3, 4, 2, 12)),
    "scan": lambda f: lambda x: lax.scan(lambda c, row: (c, f(row)), 0, x)[1],
    "remat": jax.checkpoint,
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,))[0],
    "vjp": lambda f: lambda x: jax.vjp(f, x)[0],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_program_compiled_here_calls_the_kernel(name):
    change = TRANSFORMS[name]
    assert_same(change(by_table)(X), change(by_formula)(X), 1000)


def test_without_jit_too():
    want = by_formula(X)
    with jax.disable_jit():
        assert_same(by_table(X), want, 1000)


def test_no_gradient_flows():
    assert not jax.grad(lambda x: by_table(x)[1].sum())(X).any()


def test_an_exported_program_has_the_formula():
    exported = export.export(jax.jit(by_table))(X)
    assert_same(export.deserialize(exported.serialize()).call(X), by_formula(X))


def test_sizes_may_be_symbolic():
    like = jax.ShapeDtypeStruct(export.symbolic_shape("a, b, 24"), X.dtype)
    assert_same(export.export(jax.jit(by_table))(like).call(X), by_formula(X))


def mesh(*sizes):
    return jax.make_mesh(sizes, ("d", "m")[: len(sizes)], axis_types=(AxisType.Auto,) * len(sizes))


def test_a_program_that_the_compiler_splits_has_the_formula():
    split = jax.device_put(X, NamedSharding(mesh(4), P(None, "d")))
    assert_same(jax.jit(by_table)(split), by_formula(X))
    with jax.disable_jit():
        assert_same(by_table(split), by_formula(X))


@pytest.mark.parametrize(("sizes", "axes", "factor"), [((4,), "d", 1000), ((4, 1), "d", 1)])
def test_shard_map_over_all_axes_calls_the_kernel(sizes, axes, factor):
    rows = P(None, "d")
    f = jax.shard_map(
        by_table, mesh=mesh(*sizes), in_specs=rows, out_specs=rows, axis_names=set(axes)
    )
    assert_same(jax.jit(f)(X), by_formula(X), factor)


SIZES = [  # contracted axes, quantizer, rows, k, group
    (1, INT8, 12, 24, 24),
    (2, INT8, 3, 96, 96),
    (3, INT8, 1, 288, 288),
    (1, INT8.grouped(7), 12, 24, 7),
    (2, INT8.grouped(1 / 3), 12, 24, 8),
    (2, INT8.grouped(100), 12, 24, 24),
]


@pytest.mark.parametrize(("contract", "quantizer", "m", "k", "group"), SIZES)
@pytest.mark.parametrize("kernels", [KERNELS, portable(KERNELS), MARKED], ids=["all", "xla", "own"])
def test_rows_of_several_axes_and_groups(contract, quantizer, m, k, group, kernels):
    assert is_by_rows(X, quantizer, tuple(range(3 - contract, 3)))
    assert describe(X, quantizer, contract) == Rows(m, k, group, "float32")
    got = jax.jit(lambda x: by_table(x, kernels, quantizer, contract))(X)
    assert_same(got, by_formula(X, quantizer, contract), 1000 if kernels is MARKED else 1)


OTHERS = [
    int4.as_quantizer(),
    fp8_e4m3.as_quantizer(),
    INT8.per_tensor(),
    INT8.per_channel(1),
    INT8.per_block(2, 8),
    INT8.asymmetric(),
    INT8.ranged("rms,7"),
    INT8.ranged("absmax,0.9"),
    INT8.ranged("pow2"),
    INT8.stochastic(),
    INT8.static(),
    INT8.in_dialect(QWIX),
]


@pytest.mark.parametrize("quantizer", OTHERS, ids=str)
def test_other_quantizers_keep_the_formula(quantizer):
    assert not is_by_rows(X, quantizer, (2,))


@pytest.mark.parametrize("contract", [(), (1,), (2, 1), (0, 2)])
def test_so_do_rows_that_do_not_lie_in_one_piece(contract):
    assert not is_by_rows(X, INT8, contract)


RULES = [qpass.Rule(weight="int8", act="int8")]
WEIGHTS = dict(zip("qkv", jax.random.normal(jax.random.key(1), (3, 24, 24)), strict=True))


def attend(weights, x):
    return tuple(x @ w for w in weights.values())


@pytest.mark.skipif(why_not() is not None, reason="no compiled library")
def test_products_of_one_value_share_a_call():
    q = qpass.transform(attend, RULES)
    text = str(jax.jit(q).lower(WEIGHTS, X).compile().as_text())
    assert text.count('custom_call_target="QpassQuantizeRows"') == 1
    assert text.count('custom_call_target="QpassInteger"') == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products_and_gradients_have_the_same_bits_as_with_the_formula(dtype):
    args = jax.tree.map(lambda a: a.astype(dtype), (WEIGHTS, X))

    def value_and_grads(kernels):
        q = qpass.transform(attend, RULES, kernels=kernels)

        def total(*args):
            return sum(jnp.sum(jnp.sin(out)).astype("float32") for out in q(*args))

        return jax.jit(jax.value_and_grad(total, (0, 1)))(*args)

    without = tuple(replace(kernel, rows=None) for kernel in KERNELS)
    jax.tree.map(np.testing.assert_array_equal, value_and_grads(KERNELS), value_and_grads(without))
