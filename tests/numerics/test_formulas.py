import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass.numerics import count_nonfinite, encode, find_qtype, find_range, find_scales, formulas
from tests.numerics import oracle

BLOCKS = {"tensor": (3, 10), "channel": (1, 10), "column": (3, 1), "group": (1, 4), "both": (2, 3)}


def coded(x, blocks, name):
    quantizer = find_qtype(name).per_channel()
    found = find_scales(*find_range(x, blocks, quantizer), quantizer, x.dtype)
    return encode(x, found.value, found.zero, blocks, quantizer), found.value


def encoded(x, scale, blocks, name):
    return encode(x, scale, None, blocks, find_qtype(name).per_channel())


def decode(codes, scale, blocks, dtype, name="int8"):
    return formulas.decode(codes, scale, None, blocks, find_qtype(name), dtype)


@pytest.mark.parametrize("dtype", oracle.FLOATS)
@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("name", oracle.NAMES)
def test_scales_and_codes_are_those_of_numpy_bit_for_bit(name, blocks, dtype):
    x = oracle.sample((3, 10), dtype)
    codes, scale = coded(x, blocks, name)
    wanted = oracle.scales(oracle.widen(x), blocks, name)
    assert codes.dtype == find_qtype(name).dtype
    oracle.same(scale, wanted)
    np.testing.assert_array_equal(
        oracle.widen(codes), oracle.widen(oracle.codes(oracle.widen(x), wanted, blocks, name))
    )


@given(
    st.lists(st.integers(0, 5), min_size=0, max_size=3),
    st.sampled_from(oracle.NAMES),
    st.sampled_from(oracle.FLOATS),
    st.data(),
)
def test_any_shape_and_blocks(shape, name, dtype, data):
    blocks = tuple(data.draw(st.sampled_from(sorted({1, 2, 3, n}))) if n > 3 else n for n in shape)
    x = oracle.sample(tuple(shape), dtype)
    codes, scale = coded(x, blocks, name)
    wanted = oracle.scales(oracle.widen(x), blocks, name)
    oracle.same(scale, wanted)
    np.testing.assert_array_equal(
        oracle.widen(codes), oracle.widen(oracle.codes(oracle.widen(x), wanted, blocks, name))
    )


@pytest.mark.parametrize("name", oracle.NAMES)
@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_same_bits_in_every_context(name, dtype):
    def step(row):
        # A product that rounds, so that a value kept wider than its dtype would show.
        return [
            (*(c := coded(row * row, b, name)), decode(*c, b, jnp.dtype(dtype))) for b in blocks
        ]

    blocks = [(7, 33), (1, 33), (1, 8)]

    x = oracle.sample((5, 7, 33), dtype)
    runs = {how: jax.tree.leaves(run(x)) for how, run in oracle.eager_jit_vmap_scan(step).items()}
    for how, run in runs.items():
        for got, wanted in zip(run, runs["eager"], strict=True):
            np.testing.assert_array_equal(oracle.widen(got), oracle.widen(wanted), err_msg=how)


@pytest.mark.parametrize("dtype", oracle.FLOATS)
def test_same_bits_in_the_middle_of_a_program(dtype):
    """The producer and consumers of codes must not tempt XLA to compute them otherwise."""

    def values(x):
        wide = jnp.abs(x) * 2
        codes, scale = coded(wide, (1, 64), "int8")
        back = decode(codes, scale, (1, 64), jnp.dtype(jnp.float32))
        return codes, scale, wide, jnp.sum(back / scale), back * 3 - wide

    x = oracle.sample((16, 64), dtype)
    codes, scale, wide, *_ = jax.jit(values)(x)
    for got, wanted in zip((codes, scale), coded(wide, (1, 64), "int8"), strict=True):
        oracle.same(got, wanted)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_ties_go_to_even(name):
    qmax = oracle.QMAX[name]
    x = jnp.asarray([[qmax, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], jnp.float32)
    codes, scale = coded(x, (1, 7), name)
    # The scale that x has by itself is no power of two; one holds the codes of exact ones.
    codes = encoded(x, jnp.ones_like(scale), (1, 7), name)
    assert oracle.widen(codes).tolist() == [[qmax, 0, 2, 2, 0, -2, -2]]


@pytest.mark.parametrize("dtype", oracle.FLOATS)
@pytest.mark.parametrize("name", oracle.NAMES)
class TestEdges:
    def test_zero_rows(self, name, dtype):
        codes, scale = coded(jnp.zeros((2, 4), dtype), (1, 4), name)
        assert scale.tolist() == [[1], [1]]
        assert not oracle.widen(codes).any()

    def test_constant_rows_come_back(self, name, dtype):
        x = jnp.asarray([[3.0] * 4, [-0.125] * 4, [700.0] * 4], dtype)
        codes, scale = coded(x, (1, 4), name)
        assert (oracle.widen(codes) * np.sign(scale) == np.sign(x) * -oracle.QMIN[name]).all()
        back = decode(codes, scale, (1, 4), jnp.dtype(dtype))
        np.testing.assert_allclose(oracle.widen(back), oracle.widen(x), rtol=2e-7)

    def test_nonfinite_values_do_not_reach_the_scale(self, name, dtype):
        x = jnp.asarray([[jnp.nan, 1, -2, jnp.inf], [-jnp.inf, 0, 0, 0], [jnp.nan] * 4], dtype)
        codes, scale = coded(x, (1, 4), name)
        qmax, nan = oracle.QMAX[name], (0 if name.startswith("int") else np.nan)
        qmin = oracle.QMIN[name]
        assert scale.ravel().tolist() == [np.float32(2) * np.float32(1 / -qmin), 1, 1]
        got = oracle.widen(codes)
        np.testing.assert_array_equal(got[:, 0], [nan, qmin, nan])
        np.testing.assert_array_equal(got[:2, 2:], [[qmin, qmax], [0, 0]])

    def test_extremes_of_the_dtype(self, name, dtype):
        info = jnp.finfo(dtype)
        x = jnp.asarray([[info.max, -info.max, info.max / 2, 0], [info.tiny, -info.tiny, 0, 0]])
        codes, scale = coded(x.astype(dtype), (1, 4), name)
        assert np.isfinite(scale).all()
        assert (np.abs(scale) >= np.finfo(np.float32).tiny).all()
        assert oracle.widen(codes)[0, :2].tolist() == [oracle.QMAX[name], -oracle.QMAX[name]]
        back = oracle.widen(decode(codes, scale, (1, 4), jnp.dtype(jnp.float32)))
        np.testing.assert_allclose(back[0, :2], oracle.widen(x)[0, :2], rtol=1e-6)
        assert np.isfinite(back).all()

    def test_one_element(self, name, dtype):
        codes, scale = coded(jnp.asarray([[2.0], [0]], dtype), (1, 1), name)
        assert (oracle.widen(codes) * np.sign(scale)).tolist() == [[-oracle.QMIN[name]], [0]]
        assert scale.shape == (2, 1)

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
    @pytest.mark.parametrize("kind", ["shared", "indexed"])
    def test_empty(self, name, dtype, shape, kind):
        blocks = shape if kind == "shared" else (1, 1)
        codes, scale = coded(jnp.zeros(shape, dtype), blocks, name)
        assert codes.shape == shape
        assert scale.shape == oracle.counts(shape, blocks)
        assert decode(codes, scale, blocks, jnp.dtype(dtype)).shape == shape


@pytest.mark.parametrize("name", oracle.NAMES)
def test_f16_subnormals_are_numbers(name):
    x = jnp.asarray([[6e-8, 3e-5, -6e-5, 0]], jnp.float16)
    codes, scale = coded(x, (1, 4), name)
    assert oracle.widen(codes)[0, 2] == oracle.QMIN[name]
    step = {"int8": 1 / 128, "int4": 1 / 8, "fp8_e4m3": 1 / 16, "fp8_e5m2": 1 / 8}[name]
    back = oracle.widen(decode(codes, scale, (1, 4), jnp.dtype(jnp.float32)))
    assert np.abs(back - oracle.widen(x)).max() <= step / 2 * 6.2e-5


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_fp8_cast_rounds_once_to_even(name):
    """Every code, the middle between neighbours and the floats beside that middle."""
    every = np.arange(256, dtype=np.uint8).view(oracle.CODES[name]).astype(np.float32)
    every = np.sort(every[np.isfinite(every)])
    middle = (every[1:] + every[:-1]) / 2
    near = [np.nextafter(middle, side, dtype=np.float32) for side in (-np.inf, np.inf)]
    x = np.concatenate([every, middle, *near])
    x = x[(x == 0) | (np.abs(x) > np.finfo(np.float32).tiny)]
    codes = encoded(jnp.asarray(x), jnp.ones(1), x.shape, name)
    oracle.same(codes, x.astype(oracle.CODES[name]))


@pytest.mark.parametrize(
    ("name", "bound"), [("int8", 0.009), ("int4", 0.141), ("fp8_e4m3", 0.024), ("fp8_e5m2", 0.047)]
)
def test_error_of_normal_numbers_per_row(name, bound):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((256, 1024)), jnp.float32)
    codes, scale = coded(x, (1, 1024), name)
    back = np.asarray(decode(codes, scale, (1, 1024), jnp.dtype(jnp.float32)), np.float64)
    assert np.abs(back - np.asarray(x)).mean() / np.abs(x).mean() < bound


def test_smaller_groups_err_less():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((256, 1024)), jnp.float32)

    def error(block):
        codes, scale = coded(x, (1, block), "int4")
        back = np.asarray(decode(codes, scale, (1, block), jnp.dtype(jnp.float32)), np.float64)
        return np.abs(back - np.asarray(x)).mean() / np.abs(x).mean()

    assert error(32) < 0.092 < error(128) < 0.114 < error(1024)


def test_integer_error_is_at_most_half_a_step():
    x = oracle.sample((16, 50))
    for name in ("int8", "int4"):
        codes, scale = coded(x, (1, 8), name)
        back = np.asarray(decode(codes, scale, (1, 8), jnp.dtype(jnp.float32)), np.float64)
        step = oracle.spread(np.asarray(scale, np.float64), x.shape, (1, 8))
        assert (np.abs(back - np.asarray(x)) <= np.abs(step) * 0.50001).all()


def test_count_nonfinite():
    x = jnp.asarray([[1, jnp.nan], [jnp.inf, -jnp.inf]])
    assert int(count_nonfinite(x)) == 3
    assert int(count_nonfinite(jnp.zeros((0, 3)))) == 0


def test_no_division_by_a_broadcast_scale():
    jaxpr = str(jax.make_jaxpr(lambda x: coded(x, (1, 10), "int8"))(jnp.ones((3, 10))))
    divided = [line.split("=")[0] for line in jaxpr.splitlines() if " div " in line]
    assert [result for result in divided if "f32[3,1]" in result]
    assert not [result for result in divided if "f32[3,10]" in result]
