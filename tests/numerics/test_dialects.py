"""Dialects against numpy: every operation rounded to the array's dtype, as the table says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.errors import QPassError, RuleError, UnknownDialectError
from qpass.numerics import (
    AQT,
    DIALECTS,
    QPASS,
    QWIX,
    TORCHAO,
    TORCHAO_INTX,
    Dialect,
    Quantizer,
    as_dialect,
    as_quantizer,
    int4,
    int8,
    nf4,
    quantize,
)
from tests.numerics import oracle
from tests.numerics.dialect_oracle import ORACLES
from tests.programs import CASES, rules

PEERS = tuple(d for d in DIALECTS if d is not QPASS)
WAYS = ("int8", "int4", "int3", "fp8_e4m3", "int8 asym", "int4 asym")
BLOCKS = {"": (1, 64), "tensor": (12, 64), "g16": (1, 16)}


def speaks(dialect, text):
    """Whether a dialect has the type and the zero point that a text names."""
    q = as_quantizer(text)
    return q.qtype.kind in dialect.kinds and (q.symmetric or dialect.asymmetric)


def cut_in(text, cut):
    """`int8 g16 asym` from `int8 asym` and `g16`."""
    name, *rest = text.split()
    return as_quantizer(" ".join(filter(None, (name, cut, *rest))))


@pytest.mark.parametrize("dtype", oracle.FLOATS)
@pytest.mark.parametrize("dialect", PEERS, ids=str)
def test_codes_scales_and_zero_points_are_those_of_numpy(dialect, dtype):
    spoken = [text for text in WAYS if speaks(dialect, text)]
    x = oracle.sample((12, 64), dtype).at[3].set(0) + jnp.asarray(0.5, dtype)
    quantizers = {(text, cut): cut_in(text, cut) for text in spoken for cut in BLOCKS}

    @jax.jit
    def ours(x):
        return {key: quantize(x, q.in_dialect(dialect), (1,)) for key, q in quantizers.items()}

    for (text, cut), q in ours(x).items():
        wanted = ORACLES[dialect.name](x, BLOCKS[cut], text)
        zero = jnp.full_like(q.scale, oracle.middle(q)) if q.zero is None else q.zero
        for got, want in zip((q.scale, zero, q.codes), wanted, strict=True):
            np.testing.assert_array_equal(oracle.widen(got), want, err_msg=f"{text} {cut}")


@pytest.mark.parametrize("dtype", oracle.FLOATS)
@pytest.mark.parametrize("dialect", PEERS, ids=str)
def test_same_bits_in_every_context(dialect, dtype):
    """Codes added to before they are rounded are one operation or two: `qwix` needs jit there."""
    text = "int8 tensor asym" if dialect.asymmetric and not dialect.zero_first else "int8 tensor"
    quantizer = as_quantizer(text).in_dialect(dialect)

    def step(row):
        return quantize(row, quantizer, (0, 1))

    runs = oracle.eager_jit_vmap_scan(step)
    got = {how: jax.tree.leaves(run(oracle.sample((3, 7, 33), dtype))) for how, run in runs.items()}
    for leaves in got.values():
        for one, other in zip(leaves, got["eager"], strict=True):
            np.testing.assert_array_equal(oracle.widen(one), oracle.widen(other))


def test_bounds_and_limits():
    assert [d.bound(int8) for d in DIALECTS] == [127, 127.5, 127.5, 127.5, 127.5]
    assert [d.limits(int4) for d in DIALECTS] == [(-8, 7), (-8, 7), (-8, 7), (-8, 7), (-7, 7)]
    assert {d.limits(int4, symmetric=False) for d in DIALECTS} == {(-8, 7)}
    assert {d.limits(qpass.fp8_e4m3) for d in DIALECTS} == {(-448, 448)}


def test_a_small_f16_tensor_is_lost_in_qwix_alone():
    """Its guard takes any scale under 0.0078 for that of a block of zeros."""
    x = jnp.linspace(-0.4, 0.4, 8, dtype=jnp.float16)[None]
    for dialect in DIALECTS:
        q = quantize(x, int8.in_dialect(dialect), (1,))
        if dialect is QWIX:
            assert q.scale.tolist() == [[1]]
            assert not q.codes.any()
        else:
            np.testing.assert_allclose(
                oracle.widen(q.dequantize()), oracle.widen(x), atol=0.002, err_msg=dialect.name
            )


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_nothing_that_is_finite_becomes_nan(dialect, dtype):
    """Where the span is beyond the dtype, torchao itself has NaN."""
    most, least = float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).smallest_subnormal)
    rows = [[0, 0, 0], [most, -most, 1], [most, most, most], [least, 0, -least], [3, 3, 3]]
    for text in ("int8", "int8 asym"):
        if speaks(dialect, text):
            q = quantize(jnp.asarray(rows, dtype), as_quantizer(text).in_dialect(dialect), (1,))
            assert jnp.isfinite(q.scale).all()
            assert not jnp.isnan(q.dequantize()).any()


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_what_is_not_finite_is_left_out_of_scales(dialect):
    x = jnp.asarray([[jnp.nan, 2, -1, jnp.inf, -jnp.inf]])
    for text in ("int8", "int8 asym"):
        if speaks(dialect, text):
            q = quantize(x, as_quantizer(text).in_dialect(dialect), (1,))
            finite = quantize(x[:, 1:3], as_quantizer(text).in_dialect(dialect), (1,))
            assert q.scale == finite.scale
            nan, *_, high, low = q.dequantize()[0].tolist()
            assert nan == 0
            assert high >= 1.9
            assert low <= -0.9


def test_a_quantizer_says_its_dialect():
    for text in ("int8 qwix", "int4 g32 qwix", "int8 asym torchao", "int4 g32 torchao_intx"):
        assert str(as_quantizer(text)) == text
        assert str(as_quantizer(text).dialect) == text.split()[-1]
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
    with pytest.raises(QPassError, match=r"None is none: known: .*'qpass', 'qwix'"):
        qpass.transform(CASES["matmul"].fn, rules("int8"), dialect=None)


def test_a_library_without_zero_points_or_types_is_not_made_up():
    with pytest.raises(RuleError, match=r"dialect aqt.* no zero points"):
        int8.asymmetric().in_dialect(AQT)
    with pytest.raises(RuleError, match=r"dialect aqt.* no zero points"):
        as_quantizer("int8 aqt").asymmetric()
    for dialect in (TORCHAO, TORCHAO_INTX, AQT):
        with pytest.raises(RuleError, match=rf"integer type for the dialect {dialect}.* nf4"):
            nf4.in_dialect(dialect)
    with pytest.raises(RuleError, match="no formulas for fp8_e4m3"):
        qpass.transform(CASES["matmul"].fn, rules("fp8_e4m3"), dialect="torchao").plan(
            *CASES["matmul"].arguments()
        )


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
        for dialect in (QPASS, QWIX)
    )
    assert (ours != theirs).any()


def test_a_dialect_of_ones_own():
    mine = Dialect("mine", QPASS.guard, headroom=0.25)
    x = jnp.asarray([[1.0, -2.0, 0.5]])
    assert quantize(x, int4.in_dialect(mine), (1,)).scale == np.float32(2) * np.float32(1 / 7.25)
    exact = replace(mine, true_scales=True)
    assert quantize(x, int4.in_dialect(exact), (1,)).scale == np.float32(2) / np.float32(7.25)
