"""Dialects against numpy: every operation rounded to the array's dtype, as the table says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.errors import QPassError, RuleError, UnknownDialectError
from qpass.numerics import (
    DIALECTS,
    QPASS,
    QTYPES,
    QWIX,
    Dialect,
    Quantizer,
    as_dialect,
    as_quantizer,
    encode,
    int4,
    int8,
    quantize,
    scales,
)
from tests.numerics import oracle
from tests.programs import CASES, rules

BOUNDS = {"int8": 127.5, "int4": 7.5, "fp8_e4m3": 448, "fp8_e5m2": 57344}
LEAST = {"int8": -128, "int4": -8, "fp8_e4m3": -448, "fp8_e5m2": -57344}


def rounded(y, dtype):
    return np.asarray(y, np.float32).astype(np.dtype(dtype)).astype(np.float32)


def wanted(x, blocks, name):
    """Scales and codes of Qwix 0.1.8: bf16 in float32 and rounded, f16 in f16."""
    narrow = x.dtype if x.dtype == jnp.float16 else jnp.float32
    values = oracle.widen(x)
    cut = values.reshape(-1, blocks[0], values.shape[1] // blocks[1], blocks[1])
    amax = np.abs(cut).max((1, 3))
    scale = rounded(amax * rounded(1 / BOUNDS[name], narrow), x.dtype)
    scale = np.where(scale < np.sqrt(float(jnp.finfo(x.dtype).tiny)), 1, scale).astype(np.float32)
    inverse = rounded(1 / scale, narrow)
    y = rounded(values * oracle.spread(inverse, values.shape, blocks), x.dtype)
    if name.startswith("int"):
        return scale, np.clip(np.rint(y), LEAST[name], oracle.QMAX[name])
    y = np.clip(y, LEAST[name], oracle.QMAX[name])
    return scale, y.astype(oracle.CODES[name]).astype(np.float32)


@pytest.mark.parametrize("dtype", oracle.FLOATS)
@pytest.mark.parametrize("qtype", QTYPES, ids=str)
def test_qwix_codes_and_scales_are_those_of_numpy(qtype, dtype):
    x = oracle.sample((12, 64), dtype).at[3].set(0)
    for blocks in ((1, 64), (12, 64), (1, 16)):
        scale = scales(x, blocks, qtype, QWIX)
        codes = encode(x, scale, blocks, qtype, QWIX)
        assert scale.dtype == jnp.float32
        for got, want in zip((scale, codes), wanted(x, blocks, qtype.name), strict=True):
            np.testing.assert_array_equal(oracle.widen(got), want)


@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_same_bits_in_every_context(dtype):
    def step(row):
        scale = scales(row, (7, 33), int8, QWIX)
        return scale, encode(row, scale, (7, 33), int8, QWIX)

    runs = oracle.eager_jit_vmap_scan(step)
    got = {how: jax.tree.leaves(run(oracle.sample((3, 7, 33), dtype))) for how, run in runs.items()}
    for leaves in got.values():
        for one, other in zip(leaves, got["eager"], strict=True):
            np.testing.assert_array_equal(oracle.widen(one), oracle.widen(other))


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_and_limits(name):
    qtype = next(t for t in QTYPES if t.name == name)
    assert QPASS.bound(qtype) == QPASS.limits(qtype)[1] == oracle.QMAX[name]
    assert QPASS.limits(qtype)[0] == -oracle.QMAX[name]
    assert QWIX.bound(qtype) == BOUNDS[name]
    assert QWIX.limits(qtype) == (LEAST[name], oracle.QMAX[name])


def test_a_small_f16_tensor_is_lost_in_qwix_alone():
    """Its guard takes any scale under 0.0078 for that of a block of zeros."""
    x = jnp.linspace(-0.4, 0.4, 8, dtype=jnp.float16)[None]
    lost, kept = (quantize(x, int8.in_dialect(d), (1,)) for d in (QWIX, QPASS))
    assert lost.scale.tolist() == [[1]]
    assert not lost.codes.any()
    np.testing.assert_allclose(oracle.widen(kept.dequantize()), oracle.widen(x), atol=0.002)


def test_a_quantizer_says_its_dialect():
    for text in ("int8 qwix", "int4 g32 qwix", "int8 tensor qwix"):
        assert str(as_quantizer(text)) == text
        assert as_quantizer(text).dialect is QWIX
    assert as_quantizer("int4 g32 qwix") == int4.grouped(32).in_dialect("qwix")
    assert int8.in_dialect(QWIX) == Quantizer(int8, dialect=QWIX)
    assert str(as_quantizer("int8 qpass")) == str(as_quantizer("int8")) == "int8"


def test_names_with_suggestions():
    assert [as_dialect(d.name) for d in DIALECTS] == list(DIALECTS)
    for ask in (as_dialect, int8.in_dialect, int8.per_tensor().in_dialect):
        with pytest.raises(UnknownDialectError, match=r"'qwic'.*'qwix'"):
            ask("qwic")
    with pytest.raises(RuleError, match=r"'int8 qwic'.*'qwix'"):
        as_quantizer("int8 qwic")
    with pytest.raises(QPassError, match=r"None is none: known: 'qpass', 'qwix'"):
        qpass.transform(CASES["matmul"].fn, rules("int8"), dialect=None)


def test_the_option_is_for_quantizers_without_one():
    given = [qpass.Rule(weight="int8", act="int8 tensor qpass")]
    q = qpass.transform(CASES["matmul"].fn, given, dialect="qwix")
    args = CASES["matmul"].arguments()
    scheme = q.plan(*args).decisions[0].quantized.scheme
    assert str(scheme) == "int8 qwix x int8 tensor"
    assert oracle.widen(q.quantize(*args)["w"].codes).min() == -128
    np.testing.assert_array_equal(jax.jit(q)(q.quantize(*args), args[1]), jax.jit(q)(*args))


def test_groups_of_an_activation_keep_their_dialect():
    """They are cut again where the weight's groups are."""
    args = CASES["several axes"].arguments()
    ours, theirs = (
        qpass.jit(CASES["several axes"].fn, rules=rules("int8 g16", f"int8 g16 {dialect}"))(*args)
        for dialect in DIALECTS
    )
    assert (ours != theirs).any()


def test_a_dialect_of_ones_own():
    mine = Dialect("mine", QPASS.guard, headroom=0.25)
    x = jnp.asarray([[1.0, -2.0, 0.5]])
    assert quantize(x, int4.in_dialect(mine), (1,)).scale == np.float32(2) * np.float32(1 / 7.25)
