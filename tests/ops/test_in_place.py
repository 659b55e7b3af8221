"""Kernels that read tables get codes as they are stored, all others the same numbers decoded."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import qpass
from qpass.numerics import QTYPES, from_stored, table_of
from qpass_kernels import REFERENCE, Kernel, Product

K, N = 48, 6
W = jax.random.normal(jax.random.key(0), (K, N))
X = jax.random.normal(jax.random.key(1), (4, K))
TYPES = ["nf4 g16", "fp4_e2m1 g16", "mxfp4 g16", "nvfp4", "uint4", "uint4 asym", "int2", "int3 g16"]
CALLS: list[tuple] = []


def look_up(product, rhs):
    """Numbers for `[..., K]` codes, one by one from the bits of the bytes that they lie in."""
    at, bits = np.arange(product.k), product.code_bits
    if bits == 4:
        codes = lax.bitcast_convert_type(rhs, jnp.uint4).astype(jnp.int32)
    else:
        each = rhs[..., None] >> np.arange(8, dtype=np.uint8) & np.uint8(1)
        stream = each.reshape(*rhs.shape[:-1], -1).astype(jnp.int32)
        codes = sum(stream[..., at * bits + bit] << bit for bit in range(bits))
    return jnp.asarray(product.table, jnp.float32)[codes]


def run(product, lhs, lhs_scale, rhs, rhs_scale):
    CALLS.append((product, rhs.shape, rhs.dtype))
    values = look_up(product, rhs) if product.table else rhs
    return REFERENCE.run(product.decoded, lhs, lhs_scale, values, rhs_scale)


def run_stacked(product, lhs, lhs_scale, stack, stack_scale, index):
    return run(product, lhs, lhs_scale, stack[index], stack_scale[index])


def reads(product: Product) -> bool:
    return product.weight_only


READS = Kernel("reads", (), lambda product: None, run, run_stacked, reads=reads)


def product(w, x):
    return x @ w


def both(weight, fn=product, act=None):
    """The function with the kernel above, and with the reference alone."""
    rules = [qpass.Rule(path="**", weight=weight, act=act)]
    CALLS.clear()
    return tuple(qpass.transform(fn, rules, kernels=(k,)) for k in (READS, REFERENCE))


def over_layers(w, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


TRANSFORMS = {
    "eager": lambda q: q,
    "jit": jax.jit,
    "vmap over rows": lambda q: jax.vmap(q, (None, 0)),
    "export": lambda q: lambda w, x: export.export(jax.jit(q))(w, x).call(w, x),
    "gradient": lambda q: lambda w, x: jax.value_and_grad(lambda x: q(w, x).sum())(x),
}


@pytest.mark.parametrize("weight", TYPES)
def test_the_same_numbers(weight):
    mine, plain = both(weight)
    stored = mine.quantize(W, X)
    got = jax.jit(mine)(stored, X)
    ((asked, shape, dtype),) = CALLS
    assert asked.table is not None
    assert dtype == (jnp.uint8 if asked.code_bits < 4 else stored.codes.dtype)
    assert shape == (1, N, -(-K * asked.code_bits // 8) if asked.code_bits < 4 else K)
    np.testing.assert_array_equal(got, jax.jit(plain)(stored, X))
    np.testing.assert_array_equal(got, jax.jit(mine)(W, X))
    assert (mine.plan(W, X).rows[0].notes == ()) == ("asym" not in weight)


@pytest.mark.parametrize("weight", ["nf4 g16", "int3 g16"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_however_the_product_is_transformed(weight, name):
    mine, plain = both(weight)
    stored = mine.quantize(W, X)
    transformed = TRANSFORMS[name]
    got, want = (transformed(q)(stored, X) for q in (mine, plain))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert any(asked.table for asked, *_ in CALLS)


@pytest.mark.parametrize("weight", ["nf4 g16", "fp4_e2m1", "uint4 g16", "int2 g16", "int3 g16"])
def test_layers_of_a_stack(weight):
    mine, plain = both(weight, over_layers)
    w = jax.random.normal(jax.random.key(2), (3, K, K))
    stored = mine.quantize(w, X)
    got = jax.jit(mine)(stored, X)
    assert CALLS[-1][0].table is not None
    np.testing.assert_array_equal(got, jax.jit(plain)(stored, X))
    np.testing.assert_array_equal(got, jax.jit(mine)(w, X))


def test_experts():
    def experts(w, x):
        return jnp.einsum("ebk,ekn->ebn", x, w)

    w, x = (jax.random.normal(jax.random.key(i), (3, *a.shape)) for i, a in enumerate((W, X)))
    mine, plain = both("int3 g16", experts)
    stored = mine.quantize(w, x)
    got = jax.jit(mine)(stored, x)
    assert CALLS[-1][1] == (3, N, K * 3 // 8)
    np.testing.assert_array_equal(got, jax.jit(plain)(stored, x))


DECODED = {
    "quantized activations": ("fp4_e2m1 g16", "int8", (K, N), "k,kn->n"),
    "groups that end within a row of K": ("int3 g32", None, (2, 40, N), "ak,akn->n"),
    "rows that end within a byte": ("int2", None, (4, 5, N), "ak,akn->n"),
}


@pytest.mark.parametrize("name", DECODED)
def test_what_does_not_lie_as_the_product_needs(name):
    weight, act, shape, equation = DECODED[name]

    def fn(w, x):
        return jnp.einsum(equation, x, w)

    w, x = jax.random.normal(jax.random.key(3), shape), jnp.ones(shape[:-1])
    mine, plain = both(weight, fn, act)
    stored = mine.quantize(w, x)
    got = jax.jit(mine)(stored, x)
    assert CALLS[-1][0].table is None
    assert "before the product" in mine.plan(w, x).rows[0].notes[0]
    np.testing.assert_array_equal(got, jax.jit(plain)(stored, x))


@pytest.mark.parametrize("qtype", [t for t in QTYPES if table_of(t)], ids=str)
def test_tables_hold_what_codes_stand_for(qtype):
    """Every code decoded, against the number that the table has for its bits."""
    table = np.asarray(table_of(qtype))
    codes = np.arange(len(table), dtype=np.uint8)
    if qtype.packed:
        words = np.unpackbits(codes[:, None], axis=1, count=qtype.bits, bitorder="little")
        array = jnp.asarray(np.packbits(words, bitorder="little"))
    else:
        array = lax.bitcast_convert_type(jnp.asarray(codes).astype(jnp.uint4), qtype.dtype)
    got = from_stored(array, qtype, len(table))
    np.testing.assert_array_equal(np.asarray(got.codes, np.float32) * got.unit, table)


def test_a_table_of_fewer_numbers_than_patterns():
    powers = (*(-(2.0**-i) for i in range(6)), 0.0, *(2.0**-i for i in range(5, -1, -1)))
    qtype = replace(qpass.nf4, name="powers", table=powers)
    table = table_of(qtype)
    assert table is not None
    assert (table[:13], table[13:]) == (powers, (1.0,) * 3)
    mine, plain = both(qtype)
    stored = mine.quantize(W, X)
    np.testing.assert_array_equal(mine(stored, X), plain(stored, X))
    assert CALLS[-1][0].table == table
    assert table_of(replace(qtype, dtype=jnp.dtype(jnp.uint8), packed=4)) is None


def test_tables_of_other_lengths_are_refused():
    plain = Product(1, 2, 3, 4, "float32", "int8", "float32", 4, "none", "row")
    assert replace(plain, table=(0.0, 1.0)).code_bits == 1
    with pytest.raises(ValueError, match=r"Product\.table has 3 numbers"):
        replace(plain, table=(0.0, 1.0, 2.0))
