"""Quantized experts: each is what a plain quantized product makes of its rows, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import qpass
from qpass.numerics import quantize
from tests.kernels.ragged_oracle import SIZES

M, K, N, E = 40, 32, 24, 4
INT8 = qpass.Rule(weight="int8", act="int8")
RULES = {
    "int8": INT8,
    "int8 weight-only": qpass.Rule(weight="int8"),
    "int4 groups": qpass.Rule(weight="int4 g8", act="int8 g8"),
    "blocks": qpass.Rule(weight="int8 b8x16", act="int8 g16"),
    "fp8": qpass.Rule(weight="fp8_e4m3", act="fp8_e4m3"),
    "zero points": qpass.Rule(weight="int8 asym", act="int8 asym"),
    "table": qpass.Rule(weight="nf4 g16"),
}


def experts(params, x, sizes):
    return lax.ragged_dot(x, params["w"], sizes)


def one(params, x):
    return x @ params["w"]


def arrays(seed=0, dtype=jnp.float32):
    kx, kw = jax.random.split(jax.random.key(seed))
    # experts of different sizes, so that a scale of another one would show
    w = jax.random.normal(kw, (E, K, N)) * jnp.array([1.0, 8.0, 0.2, 3.0])[:, None, None]
    return {"w": w.astype(dtype)}, jax.random.normal(kx, (M, K)).astype(dtype)


def by_hand(weight, x, sizes, rule):
    """Each expert's rows of the plain quantized product of all rows with it; the rest zero."""
    plain = jax.jit(qpass.transform(one, rule))
    parts, start = [], 0
    for e, size in enumerate(sizes):
        parts.append(plain({"w": weight[e]}, x)[start : start + size] if size else x[:0, :N])
        start += size
    return jnp.concatenate([*parts, jnp.zeros((M - start, N), x.dtype)])


@pytest.mark.parametrize("name", RULES)
def test_each_expert_is_a_plain_product_of_its_rows(name):
    params, x = arrays()
    q = qpass.transform(experts, RULES[name])
    program = jax.jit(q)
    stored = q.quantize(params, x, jnp.zeros(E, jnp.int32))
    assert isinstance(stored["w"], qpass.QTensor)
    for sizes in SIZES.values() if name == "int8" else [SIZES["rows left"]]:
        given = jnp.array(sizes, jnp.int32)
        got = np.asarray(program(params, x, given))
        np.testing.assert_array_equal(got, np.asarray(program(stored, x, given)))
        want = np.asarray(by_hand(params["w"], x, sizes, RULES[name]))
        close = 0 if name == "int8" else 1e-5
        np.testing.assert_allclose(got, want, rtol=close, atol=close * abs(want).max())


@pytest.mark.parametrize("name", ["zero points", "table"])
def test_experts_are_not_decoded_as_a_whole(name):
    """Neither those with zero points nor, beside float rows, those with a table."""
    params, x = arrays()
    sizes = jnp.array(SIZES["even"], jnp.int32)
    q = qpass.transform(experts, RULES[name])
    stored = q.quantize(params, x, sizes)
    text = jax.jit(q).lower(stored, x, sizes).as_text()
    assert f"tensor<{E}x{N}x{K}xf32>" not in text
    (row,) = q.plan(params, x, sizes).rows
    assert not any("turned into float32" in note for note in row.notes)


@pytest.mark.parametrize(
    ("weight", "scales"), [("int8 tensor", (1, 1, 1)), ("int8 axis0", (E, 1, 1))]
)
def test_scales_that_columns_or_experts_share(weight, scales):
    params, x = arrays()
    sizes = jnp.array(SIZES["even"], jnp.int32)
    q = qpass.transform(experts, qpass.Rule(weight=weight, act="int8"))
    stored = q.quantize(params, x, sizes)
    assert stored["w"].scale.size == np.prod(scales)
    want = np.asarray(lax.ragged_dot(x, stored["w"].dequantize(), sizes))
    assert abs(np.asarray(jax.jit(q)(stored, x, sizes)) - want).max() < 0.01 * abs(want).max()


def test_error_against_float64():
    """Within what is known of int8 experts: 3% of the mean magnitude."""
    params, x = arrays()
    program = jax.jit(qpass.transform(experts, INT8))
    for sizes in SIZES.values():
        got = np.asarray(program(params, x, jnp.array(sizes, jnp.int32)), np.float64)
        owner = np.repeat(np.arange(E), sizes)
        rows = np.asarray(x, np.float64)[: len(owner)]
        want = np.einsum("mk,mkn->mn", rows, np.asarray(params["w"], np.float64)[owner])
        assert abs(got[: len(owner)] - want).sum() <= 0.03 * abs(want).sum()
        assert not np.any(got[len(owner) :])


def test_gradients_are_those_of_plain_products():
    params, x = arrays()
    sizes = SIZES["rows left"]
    given = jnp.array(sizes, jnp.int32)
    c = jax.random.normal(jax.random.key(7), (M, N))
    q = qpass.transform(experts, INT8)
    got = jax.jit(jax.grad(lambda p, x: jnp.sum(q(p, x, given) * c), (0, 1)))(params, x)
    want = jax.grad(lambda p, x: jnp.sum(by_hand(p["w"], x, sizes, INT8) * c), (0, 1))(params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mapped", ["x", "sizes", "w", "x and sizes", "all"])
def test_vmap_is_a_loop(mapped):
    params, x = arrays()
    sizes = jnp.array(SIZES["rows left"], jnp.int32)
    x = jnp.stack([x, x[::-1] * 2]) if mapped in ("x", "x and sizes", "all") else x
    sizes = jnp.stack([sizes, sizes[::-1]]) if mapped in ("sizes", "x and sizes", "all") else sizes
    if mapped in ("w", "all"):
        params = {"w": jnp.stack([params["w"], params["w"] * 3])}
    x_axis, s_axis = 0 if x.ndim == 3 else None, 0 if sizes.ndim == 2 else None
    w_axis = 0 if params["w"].ndim == 4 else None
    q = qpass.transform(experts, INT8)
    got = jax.jit(jax.vmap(q, ({"w": w_axis}, x_axis, s_axis)))(params, x, sizes)

    def pick(a, axis, i):
        return a if axis is None else a[i]

    program = jax.jit(q)
    for i in range(2):
        w, rows, n = pick(params["w"], w_axis, i), pick(x, x_axis, i), pick(sizes, s_axis, i)
        np.testing.assert_array_equal(
            np.asarray(got[i]), np.asarray(program({"w": w}, rows, n)), strict=True
        )


def test_layers_of_a_scan_are_as_layers_one_by_one():
    layers = 3
    _, x = arrays()
    w = jax.random.normal(jax.random.key(3), (layers, E, K, K)) / K**0.5
    sizes = jnp.array(SIZES["empty ones"], jnp.int32)

    def model(params, x, sizes):
        def layer(x, w):
            return lax.ragged_dot(x, w, sizes), None

        return lax.scan(layer, x, params["w"])[0]

    q = qpass.transform(model, INT8)
    got = jax.jit(q)({"w": w}, x, sizes)
    stored = q.quantize({"w": w}, x, sizes)
    assert stored["w"].scale.size == layers * E * K
    np.testing.assert_array_equal(np.asarray(got), np.asarray(jax.jit(q)(stored, x, sizes)))
    assert reads_in_place(jax.jit(q).lower(stored, x, sizes).as_text(), layers)
    one_layer = jax.jit(qpass.transform(experts, INT8))
    for layer in w:
        x = one_layer({"w": layer}, x, sizes)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(x))


def reads_in_place(program: str, layers: int) -> bool:
    """Whether codes of all layers reach a kernel, and none are cut out of the stack."""
    whole = (
        f"tensor<{layers * E}x{K}x{K}xi8>" in program
        or f"tensor<{layers * E}x1x{K}x{K}xi8>" in program
    )
    return whole and f"tensor<1x{E}x{K}x{K}xi8>" not in program


def test_static_ranges_are_captured_and_used():
    params, x = arrays()
    sizes = jnp.array(SIZES["even"], jnp.int32)
    q = qpass.transform(experts, qpass.Rule(weight="int8", act="int8 static"))
    some = q.capture(params, x, jnp.array([0, 0, 40, 0], jnp.int32))
    assert {k: list(v) for k, v in qpass.unseen_experts(some).items()} == {
        "w/ragged_dot_general.0": [0, 1, 3]
    }
    stats = q.capture(params, x, sizes, stats=some)
    assert qpass.unseen_experts(stats) == {}
    static = q.with_ranges(qpass.ranges(stats))
    want = np.asarray(experts(params, x, sizes))
    got = np.asarray(jax.jit(static)(params, x, sizes))
    assert abs(got - want).sum() < 0.03 * abs(want).sum()
    clipped = np.asarray(jax.jit(static)(params, x * 100, sizes))
    assert abs(clipped).max() < 3 * abs(want).max()


def test_batches_have_groups_of_their_own():
    params, x = arrays()
    x = jnp.stack([x, x * 2])
    w = jnp.stack([params["w"], params["w"][::-1]], 1)  # [E, B, K, N]
    sizes = jnp.array([SIZES["even"], SIZES["rows left"]], jnp.int32)
    numbers = lax.RaggedDotDimensionNumbers((((2,), (2,)), ((0,), (1,))), [1], [0])

    def batched(params, x, sizes):
        return lax.ragged_dot_general(x, params["w"], sizes, numbers)

    got = jax.jit(qpass.transform(batched, INT8))({"w": w}, x, sizes)
    program = jax.jit(qpass.transform(experts, INT8))
    for b in range(2):
        want = program({"w": w[:, b]}, x[b], sizes[b])
        np.testing.assert_array_equal(np.asarray(got[b]), np.asarray(want))


def test_rows_inside_of_rows_and_experts_last():
    """``[M, H, K]`` with experts as the last axis of the weight."""
    params, x = arrays()
    x = jnp.stack([x, x * 2], 1)
    numbers = lax.RaggedDotDimensionNumbers((((2,), (0,)), ((), ())), [0], [2])
    sizes = jnp.array(SIZES["rows left"], jnp.int32)

    def model(params, x, sizes):
        return lax.ragged_dot_general(x, params["w"], sizes, numbers)

    moved = {"w": jnp.transpose(params["w"], (1, 2, 0))}
    got = jax.jit(qpass.transform(model, INT8))(moved, x, sizes)
    program = jax.jit(qpass.transform(experts, INT8))
    for h in range(2):
        want = program(params, x[:, h], sizes)
        np.testing.assert_array_equal(np.asarray(got[:, h]), np.asarray(want))


def test_groups_of_a_batch_axis_are_a_plain_product():
    params, x = arrays()
    x = jnp.stack([x[:5] * n for n in (1, 2, 3, 4)])
    numbers = lax.RaggedDotDimensionNumbers((((2,), (1,)), ((0,), (0,))), [0], [])

    def ragged(params, x):
        sizes = jnp.array([2, 2], jnp.int32)
        return lax.ragged_dot_general(x, params["w"], sizes, numbers)

    def plain(params, x):
        return jnp.einsum("bmk,bkn->bmn", x, params["w"])

    got, want = (jax.jit(qpass.transform(f, INT8))(params, x) for f in (ragged, plain))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_shard_map_over_experts():
    params, x = arrays()
    mesh = jax.make_mesh((1,), ("e",), axis_types=(jax.sharding.AxisType.Auto,))
    sizes = jnp.array(SIZES["even"], jnp.int32)
    sharded = jax.shard_map(experts, mesh=mesh, in_specs=(P("e"), P(), P("e")), out_specs=P("e"))
    got = jax.jit(qpass.transform(sharded, INT8))(params, x, sizes)
    want = jax.jit(qpass.transform(experts, INT8))(params, x, sizes)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_gradient_of_experts_is_a_plain_product_for_each():
    """Rows are summed over, so the scales of both operands are of all rows."""
    x, g = (jax.random.normal(jax.random.key(n), (M, size)) for n, size in ((1, K), (2, N)))
    numbers = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])

    def gradient(x, g, sizes):
        return lax.ragged_dot_general(x, g, sizes, numbers)

    q = qpass.transform(gradient, qpass.Rule(role="*", weight="int8", act="int8"), params=None)
    program = jax.jit(q)
    by_column = [quantize(v, qpass.int8.as_quantizer(), (0,)).dequantize() for v in (x, g)]
    rows, grads = (np.asarray(v, np.float64) for v in by_column)
    for sizes in SIZES.values():
        got = np.asarray(program(x, g, jnp.array(sizes, jnp.int32)))
        pairs = zip(sizes, np.cumsum(sizes), strict=True)
        want = np.stack([rows[e - n : e].T @ grads[e - n : e] for n, e in pairs])
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_backward_products_of_a_training_step():
    params, x = arrays()
    sizes = jnp.array(SIZES["rows left"], jnp.int32)

    def step(params, x):
        return jax.grad(lambda p, x: jnp.sum(experts(p, x, sizes) ** 2), (0, 1))(params, x)

    q = qpass.transform(
        step, qpass.Rule(role=("forward", "dlhs", "drhs"), weight="int8", act="int8")
    )
    plan = q.plan(params, x)
    assert {d.site.role for d in plan.decisions if d.action} == {"forward", "dlhs", "drhs"}
    got, want = jax.jit(q)(params, x), step(params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert 0 < np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b)


def test_what_cannot_be_quantized_says_why():
    params, x = arrays()
    sizes = jnp.array(SIZES["even"], jnp.int32)

    def left(params, w):
        return lax.ragged_dot(params["x"], w, sizes)

    with pytest.raises(qpass.RuleError, match="rows are sorted by expert"):
        qpass.transform(left, INT8).plan({"x": x}, params["w"])
