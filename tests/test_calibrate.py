"""Captured ranges: held to numpy, and static products to dynamic ones of the same range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from qpass.numerics.statistics import BINS
from tests.programs import CASES, rules
from tests.test_errors import refused

OLD = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 12)
STATIC = qpass.int8.static()
TENSOR = qpass.int8.per_tensor()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chain(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def scanned(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["layers"])[0]


W = {
    "a": jnp.asarray(normal(8, 8, seed=1)),
    "b": jnp.asarray(normal(8, 8, seed=2)),
    "layers": jnp.asarray(normal(3, 8, 8, seed=3)),
}
X = jnp.asarray(normal(4, 8))
A, B, LAYERS = (f"{name}/dot_general.0" for name in ("a", "b", "layers"))


def static(fn, weight="int8"):
    return qpass.transform(fn, rules(weight, STATIC))


def calibrated(fn, *args, method="max", weight="int8"):
    q = static(fn, weight)
    return q.with_ranges(qpass.ranges(q.capture(*args), method))


def equal_product(got, wanted):
    """The same bits; before jax 0.12 the same codes and scales.

    There XLA multiplies sums by a single scale in another order where it is computed in the program
    than where it is given, which is a difference in the last bit.
    """
    if OLD:
        np.testing.assert_allclose(got, wanted, rtol=3e-7)
    else:
        np.testing.assert_array_equal(got, wanted)


def same_bits(fn, p, x, weight="int8"):
    """Dynamic and static products of one range give the same bits, quantized before or in the call.

    Returns the static function.
    """
    dynamic = qpass.transform(fn, rules(weight, TENSOR))
    q = calibrated(fn, p, x, weight=weight)
    wanted = jax.jit(dynamic)(p, x)
    equal_product(jax.jit(q)(p, x), wanted)
    equal_product(jax.jit(q)(q.quantize(p, x), x), wanted)
    assert np.any(np.asarray(wanted) != np.asarray(fn(p, x)))
    return q


# --- what is captured


def test_fields_against_numpy():
    x = normal(5, 8) * 3
    x[0, 0] = np.nan
    x[1, 1] = np.inf
    stats = static(lambda p, x: x @ p["a"]).capture(W, x)
    (state,) = stats.values()
    seen = x[np.isfinite(x)]
    assert list(stats) == [A]
    assert state["count"] == 38
    assert state["min"] == state["min_sum"] == state["min_ema"] == seen.min()
    assert state["max"] == state["max_sum"] == state["max_ema"] == seen.max()
    squares = np.where(np.isfinite(x), x, 0) ** 2
    np.testing.assert_allclose(state["squares"] / state["rows"], squares.mean(0), rtol=1e-6)
    assert state["histogram"].shape == (BINS,)
    assert state["histogram"].sum() == 38


def test_channels_are_the_axes_that_activation_and_weight_share():
    x, w = normal(3, 4, 8), jnp.asarray(normal(3, 8, 5, seed=1))
    q = qpass.transform(lambda p, x: jnp.einsum("ebk,ekn->ebn", x, p["w"]), rules("int8", "int8"))
    (state,) = q.capture({"w": w}, x).values()
    np.testing.assert_allclose(state["squares"], (x**2).sum(1), rtol=1e-6)
    assert state["rows"] == 4


def test_each_layer_of_a_scan_has_its_own_range():
    q = qpass.transform(scanned, rules("int8", TENSOR))
    ranges = qpass.ranges(q.capture(W, X))
    h, wanted = np.asarray(X), []
    for w in W["layers"]:
        wanted.append((h.min(), h.max()))
        h = np.asarray(q({"layers": w[None]}, h))
    lo, hi = ranges[LAYERS]
    np.testing.assert_allclose(np.stack([lo, hi], 1), wanted, rtol=1e-6)


def test_later_sites_see_what_quantized_ones_give():
    q = qpass.transform(chain, rules("int2", "int8 tensor"))
    quantized = qpass.transform(lambda p, x: jnp.tanh(x @ p["a"]), rules("int2", "int8 tensor"))
    h = np.asarray(quantized(W, X))
    assert abs(h - np.tanh(X @ W["a"])).max() > 0.1
    np.testing.assert_allclose(qpass.ranges(q.capture(W, X))[B], (h.min(), h.max()), rtol=1e-6)


def test_quantized_parameters_capture_the_same():
    q = static(chain)
    wanted = q.capture(W, X)
    jax.tree.map(np.testing.assert_array_equal, q.capture(q.quantize(W, X), X), wanted)


def test_an_activation_of_positive_values_has_a_range_that_holds_zero():
    q = static(lambda p, x: x @ p["a"])
    (bounds,) = qpass.ranges(q.capture(W, jnp.abs(X) + 1)).values()
    assert bounds[0] == 0


# --- methods over batches


BATCHES = [normal(6, 8, seed=k) * (k + 1) for k in range(3)]


@functools.cache
def three_batches():
    q, stats = static(lambda p, x: x @ p["a"]), None
    for batch in BATCHES:
        stats = q.capture(W, batch, stats=stats, decay=0.5)
    return stats


@pytest.mark.parametrize(("method", "weights"), [("mean", [1, 1, 1]), ("ema", [0.25, 0.5, 1])])
def test_averages_of_extremes(method, weights):
    (bounds,) = qpass.ranges(three_batches(), method).values()
    wanted = [np.average([f(b) for b in BATCHES], weights=weights) for f in (np.min, np.max)]
    np.testing.assert_allclose(bounds, wanted, rtol=1e-6)


def test_extremes_of_all():
    (bounds,) = qpass.ranges(three_batches()).values()
    np.testing.assert_array_equal(bounds, (np.min(BATCHES), np.max(BATCHES)))


@pytest.mark.parametrize("p", [50, 90, 99, 99.9, 100])
def test_percentiles_within_a_bin(p):
    (bounds,) = qpass.ranges(three_batches(), f"percentile,{p}").values()
    at = np.percentile(np.abs(BATCHES), p, method="higher")
    wanted = np.clip((-at, at), np.min(BATCHES), np.max(BATCHES))
    assert np.all(np.abs(bounds) >= np.abs(wanted) * (1 - 1e-6))
    assert np.all(np.abs(bounds) <= np.abs(wanted) * (1 + 1 / 32))


def test_a_percentile_cuts_outliers_off_and_not_what_is_left_of_mostly_zeros():
    x = np.zeros((10, 8), np.float32)
    x[0, 0] = 5
    q = static(lambda p, x: x @ p["a"])
    assert qpass.ranges(q.capture(W, x), "percentile,90")[A][1] == 5
    x = np.ones((100, 8), np.float32)
    x[0, 0] = 1000
    assert qpass.ranges(q.capture(W, x), "percentile,99")[A][1] == pytest.approx(1, rel=1 / 32)


def test_statistics_of_parts_merge_in_any_grouping():
    q = static(lambda p, x: x @ p["a"])
    one, two, three = (q.capture(W, batch) for batch in BATCHES)
    merge = functools.partial(qpass.update_stats, decay=0.5)
    for stats in (merge(merge(one, two), three), merge(one, merge(two, three))):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6), stats, three_batches()
        )


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("meen", "did you mean 'mean'"),
        ("max,3", "'max'"),
        ("percentile", "99.9"),
        ("percentile,10", "from 50 to 100"),
        ("percentile,most", "from 50 to 100"),
    ],
)
def test_methods_that_do_not_exist(method, words):
    refused(qpass.CalibrationError, lambda: qpass.ranges(three_batches(), method), words)


# --- static products


def test_a_plain_function():
    q = same_bits(chain, W, X)
    assert "int8 static" in str(q.plan(W, X))


def test_layers_in_a_scan():
    same_bits(scanned, W, X)


def test_rematerialized_layers():
    def fn(p, x):
        layer = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None))
        return lax.scan(layer, x, p["layers"])[0]

    q = same_bits(fn, W, X)
    plain = calibrated(scanned, W, X)
    got, wanted = (jax.jit(jax.grad(lambda p, f=f: f(p, X).sum()))(W)["layers"] for f in (q, plain))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_jitted_function_called_twice():
    layer = jax.jit(lambda h, w: jnp.tanh(h @ w))
    q = same_bits(lambda p, x: layer(layer(x, p["a"]) * 3, p["b"]), W, X)
    lo, hi = q.given.ranges[B]
    assert hi - lo > 4 > q.given.ranges[A][1]


def test_groups_of_the_weight():
    same_bits(chain, W, X, weight="int4 g4")


def test_a_product_of_two_activations():
    def fn(p, x):
        h = x @ p["a"]
        return h @ h.T

    def given(act):
        return [*rules("int8", act), qpass.Rule(role="activations", act=act)]

    q = qpass.transform(fn, given(STATIC))
    stats = q.capture(W, X)
    sides = [name for name in stats if name != A]
    assert [name.rpartition(":")[2] for name in sides] == ["lhs", "rhs"]
    q = q.with_ranges(qpass.ranges(stats))
    dynamic = qpass.transform(fn, given(TENSOR))
    equal_product(jax.jit(q)(W, X), jax.jit(dynamic)(W, X))


def test_while_loops_have_one_range_for_all_iterations():
    def fn(p, x):
        def more(state):
            return (state[0] < 5) & (jnp.max(state[1] @ p["b"]) < 1e9)

        def step(state):
            return state[0] + 1, state[1] @ p["a"] * 0.5 + 0.1

        return lax.while_loop(more, step, (0, x))[1]

    q = static(fn)
    ranges = qpass.ranges(q.capture(W, X))
    step = qpass.transform(lambda p, x: x @ p["a"] * 0.5 + 0.1, rules("int8", TENSOR))
    seen = [X]
    for _ in range(5):
        seen.append(step(W, seen[-1]))
    np.testing.assert_allclose(ranges[A], (np.min(seen[:-1]), np.max(seen[:-1])), rtol=1e-5)
    np.testing.assert_allclose(ranges[B], (np.min(seen), np.max(seen)), rtol=1e-5)
    assert np.isfinite(q.with_ranges(ranges)(W, X)).all()


def test_a_branch_counts_when_it_is_taken():
    def fn(p, x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ p["a"], lambda x: jnp.tanh(x @ p["b"]), x)

    q = static(fn)
    up, down = jnp.abs(X), -jnp.abs(X)
    stats = q.capture(W, up)
    refused(qpass.CalibrationError, lambda: qpass.ranges(stats), B, "branch", "Capture more")
    both = q.capture(W, down, stats=stats)
    q = q.with_ranges(qpass.ranges(both))
    for x in (up, down):
        dynamic = qpass.transform(fn, rules("int8", TENSOR))
        equal_product(jax.jit(q)(W, x), jax.jit(dynamic)(W, x))


@jax.custom_vjp
def call(h, w):
    return jnp.tanh(h @ w)


def call_fwd(h, w):
    out = jnp.tanh(h @ w)
    return out, (out, w)


def call_bwd(saved, g):
    out, w = saved
    g = g * (1 - out**2)
    return g @ w.T, jnp.zeros_like(w)


call.defvjp(call_fwd, call_bwd)


def test_custom_derivative_rules_have_ranges_of_their_own():
    @jax.custom_jvp
    def half(h, w):
        return h @ w / 2

    @half.defjvp
    def _(primals, tangents):
        (h, w), (dh, dw) = primals, tangents
        return half(h, w), (dh @ w + h @ dw) / 2

    def fn(p, x):
        return half(call(x, p["a"]), p["b"])

    given = [qpass.Rule(path="**", role="dlhs", keep=True), *rules("int8", STATIC)]
    q = qpass.transform(fn, given, strict=False)
    ranges = qpass.ranges(q.capture(W, X))
    quantized = [d.site.id for d in q.plan(W, X).decisions if d.action]
    assert {A, "a/fwd/dot_general.0", B, "b/jvp/dot_general.0"} <= set(ranges) == set(quantized)
    q = q.with_ranges(ranges)
    slope = jax.jit(jax.grad(lambda x: q(W, x).sum()))(X)
    wanted = jax.grad(lambda x: fn(W, x).sum())(X)
    assert np.linalg.norm(slope - wanted) < 0.1 * np.linalg.norm(wanted)


BACKWARD = [qpass.Rule(role="dlhs", weight="int8", grad=STATIC), *rules("int8", STATIC)]


def test_backward_rules_take_ranges_by_hand():
    """No capture of a function runs them: they belong to whoever differentiates it."""
    q = qpass.transform(lambda p, x: call(x, p["a"]).sum(), BACKWARD)
    ranges = qpass.ranges(q.capture(W, X))
    slope = jax.jit(jax.grad(lambda ranges, x: q.with_ranges(ranges)(W, x), argnums=1))
    backward = "a/bwd/dot_general.0"
    refused(qpass.CalibrationError, lambda: slope(ranges, X), backward, "by hand", "grad")
    wanted = jax.grad(lambda x: call(x, W["a"]).sum())(X)
    within, clipped = (slope(ranges | {backward: (-top, top)}, X) for top in (1.0, 0.01))
    assert np.linalg.norm(within - wanted) < 0.1 * np.linalg.norm(wanted)
    assert np.linalg.norm(clipped) < 0.1 * np.linalg.norm(wanted)


def test_a_training_step_captures_its_backward_products():
    step = jax.grad(lambda p, x: call(jnp.tanh(x @ p["b"]), p["a"]).sum())
    q = qpass.transform(step, BACKWARD, strict=False)
    ranges = qpass.ranges(q.capture(W, X))
    (backward,) = (d.site.id for d in q.plan(W, X).decisions if d.site.role == "dlhs" and d.action)
    assert backward in ranges
    got, wanted = q.with_ranges(ranges)(W, X)["b"], step(W, X)["b"]
    assert 0 < np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)


def test_gradients_go_straight_through():
    q = calibrated(lambda p, x: x @ p["a"], W, X)
    dynamic = qpass.transform(lambda p, x: x @ p["a"], rules("int8", TENSOR))
    got, wanted = (
        jax.jit(jax.grad(lambda p, x, f=f: f(p, x).sum(), (0, 1)))(W, X) for f in (q, dynamic)
    )
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_no_gradient_goes_to_ranges():
    q = static(chain)
    ranges = qpass.ranges(q.capture(W, X))
    slope = jax.grad(lambda r: q.with_ranges(r)(W, X).sum())(ranges)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def test_other_ranges_need_no_other_compilation():
    q, traced = static(chain), []

    @jax.jit
    def run(ranges, p, x):
        traced.append(0)
        return q.with_ranges(ranges)(p, x)

    narrow, wide = (qpass.ranges(q.capture(W, X * k)) for k in (1, 100))
    assert np.any(run(narrow, W, X) != run(wide, W, X))
    assert len(traced) == 1


# --- under transformations, and on several devices


def test_capture_is_a_pure_function():
    q = static(chain)
    first = q.capture(W, X)
    wanted = q.capture(W, X * 2, stats=first)
    got = jax.jit(lambda x, stats: q.capture(W, x, stats=stats))(X * 2, first)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(close, got, wanted)
    got, _ = lax.scan(lambda s, x: (q.capture(W, x, stats=s), None), first, X[None] * 2)
    jax.tree.map(close, got, wanted)


def test_capture_under_vmap():
    q = static(chain)
    many = jax.vmap(lambda x: q.capture(W, x))(jnp.stack([X, X * 2]))
    one, two = (jax.tree.map(lambda a, k=k: a[k], many) for k in (0, 1))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        qpass.update_stats(one, two),
        q.capture(W, X * 2, stats=q.capture(W, X)),
    )


def test_static_under_vmap():
    q = calibrated(chain, W, X)
    xs = jnp.stack([X, X * 2])
    got = jax.jit(jax.vmap(lambda x: q(W, x)))(xs)
    np.testing.assert_allclose(got[1], jax.jit(q)(W, xs[1]), rtol=1e-6, atol=1e-6)


def mesh(names):
    return jax.make_mesh((4,), (names,), axis_types=(AxisType.Auto,))


def test_sharded_arguments():
    rows = NamedSharding(mesh("d"), P("d"))
    q = static(chain)
    got = q.capture(W, jax.device_put(X, rows))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), got, q.capture(W, X))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_sees_all_devices(check_vma):
    def body(x, w, layers):
        h = lax.cond(x[0, 0] > -9, lambda h: h @ w, lambda h: h, x)
        h = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w)), (0, h))[1]
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, layers)[0]

    def fn(p, x):
        mapped = jax.shard_map(
            body,
            mesh=mesh("d"),
            in_specs=(P("d"), P(), P()),
            out_specs=P("d"),
            check_vma=check_vma,
        )
        return mapped(x, p["a"], p["layers"])

    q = static(fn)
    stats = q.capture(W, X)
    rowwise = static(lambda p, x: jnp.concatenate([body(r[None], p["a"], p["layers"]) for r in x]))
    parts = rowwise.capture(W, X).values()
    total = sum(float(np.sum(s["count"])) for s in parts)
    assert sum(float(np.sum(s["count"])) for s in stats.values()) == total
    assert stats[A]["max"] == X.max()
    assert stats[LAYERS]["min"].shape == (3,)
    q = q.with_ranges(qpass.ranges(stats))
    assert np.isfinite(jax.jit(q)(W, X)).all()


# --- files and errors


def test_statistics_in_a_file(tmp_path):
    q = static(scanned)
    stats = q.capture(W, X)
    qpass.save_stats(tmp_path / "stats.npz", stats)
    loaded = qpass.load_stats(tmp_path / "stats.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded, stats)
    more = q.capture(W, X, stats=loaded)
    assert np.all(more[LAYERS]["batches"] == 2)


def test_no_ranges():
    refused(qpass.CalibrationError, lambda: static(chain)(W, X), A, B, "with_ranges", "capture")


def test_ranges_without_a_site_of_the_program():
    q = static(chain)
    ranges = qpass.ranges(q.capture(W, X))
    del ranges[B]
    refused(qpass.CalibrationError, lambda: q.with_ranges(ranges)(W, X), B, "capture")


def test_ranges_of_a_site_that_the_program_lacks():
    q = static(chain)
    ranges = qpass.ranges(q.capture(W, X)) | {"c/dot_general.0": (-1, 1)}
    refused(qpass.CalibrationError, lambda: q.with_ranges(ranges)(W, X), "c/dot_general.0", A)


def test_ranges_of_another_number_of_layers():
    q = static(scanned)
    stats = q.capture(W, X)
    fewer = {"layers": W["layers"][:2]}
    run = q.with_ranges(qpass.ranges(stats))
    refused(qpass.CalibrationError, lambda: run(fewer, X), LAYERS, "3", "2")
    refused(qpass.CalibrationError, lambda: q.capture(fewer, X, stats=stats), LAYERS, "stats=None")


def test_sites_that_are_not_static_need_no_ranges():
    given = [qpass.Rule(path="b", weight="int8", act="int8"), *rules("int8", STATIC)]
    q = qpass.transform(chain, given)
    ranges = qpass.ranges(q.capture(W, X))
    q.with_ranges({A: ranges[A]})(W, X)
    q.with_ranges(ranges)(W, X)


@pytest.mark.parametrize("given", [(1, 2), (-1, np.inf), (np.nan, 1), 3, (1, 2, 3)])
def test_what_is_no_range(given):
    q = static(chain)
    refused(qpass.CalibrationError, lambda: q.with_ranges({A: given}), A)


def test_nothing_to_capture():
    q = qpass.transform(chain, [qpass.Rule(path="**", keep=True)])
    refused(qpass.CalibrationError, lambda: q.capture(W, X), "float")


def test_a_loop_without_iterations_is_no_sample():
    q = static(scanned)
    stats = q.capture(W, X * np.nan)
    refused(qpass.CalibrationError, lambda: qpass.ranges(stats), LAYERS, "finite")


@pytest.mark.parametrize(
    "given",
    [
        {"weight": STATIC},
        {"weight": "int8", "act": qpass.int8.grouped(4).static()},
        {"weight": "int8", "act": qpass.int8.ranged(qpass.Rms(3)).static()},
    ],
)
def test_rules_that_mean_nothing(given):
    refused(qpass.RuleError, lambda: qpass.Rule(**given), "static")


def test_batched_products_and_several_contracted_axes():
    for name in ("batched", "several axes"):
        same_bits(CASES[name].fn, *CASES[name].arguments())
