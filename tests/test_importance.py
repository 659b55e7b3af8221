"""Weights whose range weighs errors by captured statistics, held to weights taken by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import qpass
from qpass.importance import leaf_importance
from qpass.numerics import quantize
from tests.programs import rules
from tests.test_errors import refused

WMSE = qpass.int4.ranged(qpass.WeightedMse())


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# Some inputs count much more than others.
X = normal(6, 8) * jnp.asarray([9, 1, 1, 4, 1, 1, 1, 0.1])


def importance(q, p, x):
    """By path of the leaf; the axes that are not contracted have size 1."""
    plan, stats = q.plan(p, x), q.capture(p, x)
    leaves = {plan.program.leaves[k].path: k for k in plan.storage}
    return {path: np.asarray(leaf_importance(plan, stats, k)) for path, k in leaves.items()}


def test_the_weight_is_that_of_numerics_with_the_mean_square():
    w = normal(8, 5, seed=1)
    q = qpass.transform(lambda p, x: x @ p["w"], rules(WMSE))
    got = q.quantize({"w": w}, X, stats=q.capture({"w": w}, X))["w"]
    mean = jnp.mean(X**2, axis=0)[:, None]
    wanted = quantize(w, WMSE, (0,), pack=True, importance=mean)
    np.testing.assert_array_equal(got.dequantize(), wanted.dequantize())
    plain = quantize(w, qpass.int4.ranged(qpass.Mse()), (0,))
    assert np.any(got.dequantize() != plain.dequantize())


MEAN = np.mean(np.square(X), axis=0)


@pytest.mark.parametrize(
    ("fn", "shape", "wanted"),
    [
        (lambda p, x: x @ p["w"].T, (5, 8), MEAN[None]),
        (lambda p, x: x @ p["w"].reshape(8, 6), (8, 2, 3), MEAN[:, None, None]),
        (lambda p, x: x @ p["w"].reshape(8, 5), (2, 4, 5), MEAN.reshape(2, 4, 1)),
        (lambda p, x: jnp.einsum("mk,nk->mn", x[:, ::-1], p["w"][:, ::-1]), (5, 8), MEAN[None]),
        (lambda p, x: jnp.einsum("mab,ban->mn", x.reshape(6, 2, 4), p["w"]), (4, 2, 5),
         MEAN.reshape(2, 4).T[..., None]),
        (lambda p, x: jax.checkpoint(jax.jit(lambda w: x @ w))(p["w"]), (8, 5), MEAN[:, None]),
        (lambda p, x: x @ p["w"] + (2 * x) @ p["w"], (8, 5), 2.5 * MEAN[:, None]),
        (lambda p, x: x @ p["w"][0] + (2 * x) @ p["w"][1], (2, 8, 5),
         np.stack([MEAN, 4 * MEAN])[..., None]),
        (lambda p, x: lax.scan(lambda c, w: (c * 2, c @ w), x, p["w"])[1], (3, 8, 5),
         np.stack([MEAN, 4 * MEAN, 16 * MEAN])[..., None]),
        (lambda p, x: lax.scan(lambda c, _: (c * 2, c @ p["w"]), x, None, length=2)[1], (8, 5),
         2.5 * MEAN[:, None]),
        (lambda p, x: lax.fori_loop(0, 3, lambda i, c: c + (x * (i + 1)) @ p["w"][i], 0 * x[:, :5]),
         (3, 8, 5), np.stack([14 / 3 * MEAN] * 3)[..., None]),
    ],
    ids=["transposed", "free axes split", "contracted axes split", "reversed", "two axes",
         "nested", "two products", "slices", "scanned", "shared by a scan", "computed slices"],
)  # fmt: skip
def test_means_come_back_along_the_axes_of_the_leaf(fn, shape, wanted):
    got = importance(qpass.transform(fn, rules(WMSE)), {"w": normal(*shape, seed=1)}, X)["w"]
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_experts_have_their_own():
    x = jnp.stack([X, 2 * X, 3 * X])
    q = qpass.transform(lambda p, x: jnp.einsum("emk,ekn->emn", x, p["w"]), rules(WMSE))
    got = importance(q, {"w": normal(3, 8, 5, seed=1)}, x)["w"]
    np.testing.assert_allclose(got[..., 0], np.stack([MEAN, 4 * MEAN, 9 * MEAN]), rtol=1e-5)


def test_it_lowers_the_error_of_the_product():
    w = normal(8, 32, seed=1)

    def error(range_):
        q = qpass.transform(lambda p, x: x @ p["w"], rules(qpass.int3.ranged(range_)))
        stored = q.quantize({"w": w}, X, stats=q.capture({"w": w}, X))
        return float(jnp.linalg.norm(q(stored, X) - X @ w))

    assert error(qpass.WeightedMse()) < 0.95 * error(qpass.Mse())


def test_without_statistics():
    p = {"w": normal(8, 5, seed=1)}
    q = qpass.transform(lambda p, x: x @ p["w"], rules(WMSE))
    check = functools.partial(refused, qpass.CalibrationError)
    check(lambda: q.quantize(p, X), "w/dot_general.0", "capture")
    check(lambda: q(p, X), "w/dot_general.0", "quantize", "'mse'")
    assert "wmse" in str(q.plan(p, X))
    shapes = jax.eval_shape(lambda: p)
    assert isinstance(q.quantize(shapes, X)["w"], qpass.QTensor), "shapes need no statistics"


def test_a_shard_map_has_none():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def fn(p, x):
        mapped = jax.shard_map(
            lambda x, w: lax.psum(x @ w, "d"),
            mesh=mesh, in_specs=(P(None, "d"), P("d")), out_specs=P(),
        )  # fmt: skip
        return mapped(x, p["w"])

    q, p = qpass.transform(fn, rules(WMSE)), {"w": normal(8, 5, seed=1)}
    stats = q.capture(p, X)
    refused(qpass.CalibrationError, lambda: q.quantize(p, X, stats=stats), "shard_map", "'mse'")
