"""What is gathered by channel, held to numpy in float64; and calibration over batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from tests.programs import rules
from tests.test_errors import refused

ALL = ("range", "square", "absmax", "hessian")
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = normal(12, 8)
SIZES = jnp.asarray([5, 0, 7], jnp.int32)


def of_rows(rows):
    """Count, mean square, largest magnitude and Hessian of rows ``[M, K]``."""
    rows = np.asarray(rows, np.float64)
    n = max(len(rows), 1)
    largest = np.max(np.abs(rows), axis=0, initial=0)
    return len(rows), np.sum(rows**2, 0) / n, largest, rows.T @ rows


def layers(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]


def hidden(w, x):
    rows = [x]
    for one in w[:-1]:
        rows.append(np.tanh(rows[-1] @ np.asarray(one, np.float64)))
    return rows


# Each program with its weight, and the rows that each of its matrices sees, in that order.
PROGRAMS = {
    "product": (lambda p, x: x @ p["w"], (8, 5), lambda w: X),
    "several axes": (lambda p, x: jnp.einsum("mab,ban->mn", x.reshape(12, 2, 4), p["w"]),
                     (4, 2, 5), lambda w: X),
    "batched": (lambda p, x: jnp.einsum("emk,ekn->emn", x.reshape(3, 4, 8), p["w"]), (3, 8, 5),
                lambda w: list(X.reshape(3, 4, 8))),
    "scanned": (layers, (3, 8, 8), lambda w: hidden(w, X)),
    "experts": (lambda p, x: lax.ragged_dot(x, p["w"], SIZES), (3, 8, 5),
                lambda w: [X[:5], X[5:5], X[5:]]),
    "while": (lambda p, x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ p["w"]),
                                          (0, x))[1], (8, 8),
              lambda w: np.concatenate([X, X @ w, X @ w @ w])),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_fields_against_numpy(name):
    fn, shape, rows = PROGRAMS[name]
    w = normal(*shape, seed=1) / 2
    q = qpass.transform(fn, rules("fp8_e4m3" if name == "product" else "int8 g1"))
    stats = q.calibrate({"w": w}, [(X,)], gather=ALL)
    (site,) = (d.site.id for d in q.plan({"w": w}, X).decisions if d.action)
    got, seen = stats.of(site), rows(w)
    alone = isinstance(seen, np.ndarray)
    wanted = of_rows(seen) if alone else map(np.stack, zip(*map(of_rows, seen), strict=True))
    fields = dict(zip(("count", "square", "absmax", "hessian"), wanted, strict=True))
    if name == "batched":
        fields["count"] = 4
    for field, value in fields.items():
        mine = np.asarray(getattr(got, field))
        assert mine.shape == np.shape(value), field
        loose = 0.05 if name in {"scanned", "while"} else 2e-5  # products before it are quantized
        atol = loose * max(np.abs(value).max(), 1)
        np.testing.assert_allclose(mine, value, rtol=0, atol=atol, err_msg=field)


def test_parts_of_the_data_merge_to_all_of_it():
    fn, shape, _ = PROGRAMS["scanned"]
    q, p = qpass.transform(fn, rules("int8", "int8")), {"w": normal(*shape, seed=1)}
    whole = q.calibrate(p, [X], gather=ALL[1:])
    parts = q.calibrate(p, iter([X[:4], X[4:8], X[8:]]), gather=ALL[1:])
    jax.tree.map(close, parts, whole)
    one, other = (q.calibrate(p, [part], gather=ALL[1:]) for part in (X[:4], X[4:]))
    jax.tree.map(close, qpass.update_stats(one, other), whole)
    jax.tree.map(close, q.calibrate(p, [X[4:]], stats=one, gather=ALL[1:]), whole)


def test_only_what_is_asked_for():
    q, p = qpass.transform(lambda p, x: x @ p["w"], rules("int8", "int8")), {"w": normal(8, 5)}
    (state,) = q.calibrate(p, [X], gather="absmax").values()
    assert set(state) == {"count", "rows", "absmax"}
    (state,) = q.calibrate(p, [X], gather=("range",)).values()
    assert "histogram" in state
    assert "squares" not in state
    assert set(q.capture(p, X)["w/dot_general.0"]) == {"squares", "rows", *state}


def test_a_loss_with_several_arguments_and_progress(capsys):
    q = qpass.transform(lambda p, x, y: jnp.sum((x @ p["w"] - y) ** 2), rules("int8", "int8"))
    batches = [(X, normal(12, 5, seed=k)) for k in range(2)]
    stats = q.calibrate({"w": normal(8, 5)}, batches, progress=True)
    assert stats["w/dot_general.0"]["batches"] == 2
    assert "calibrating" in capsys.readouterr().out


def test_no_sample():
    fn = lambda p, x: lax.cond(x[0, 0] > 9, lambda: x @ p["w"], lambda: x[:, :5])  # noqa: E731
    q, p = qpass.transform(fn, rules("int8", "int8")), {"w": normal(8, 5)}
    refused(qpass.CalibrationError, lambda: q.calibrate(p, []), "empty")
    check = functools.partial(q.calibrate, p, [X])
    refused(qpass.CalibrationError, lambda: check(gather=("square",)), "branch", "w/")
    refused(qpass.CalibrationError, lambda: check(gather=("squares",)), "square")
    stats = q.calibrate(p, [X + 20], gather=("absmax",))
    (name,) = stats
    refused(qpass.CalibrationError, lambda: stats.of(name).hessian, "gather=('hessian',)", name)
    refused(qpass.CalibrationError, lambda: stats.of("w/dot"), name)
    refused(qpass.CalibrationError, lambda: qpass.ranges(stats), "gather=('range',)")


def test_experts_weigh_errors_by_rows_of_their_own():
    fn, shape, _ = PROGRAMS["experts"]
    p = {"w": normal(*shape, seed=1)}
    q = qpass.transform(fn, rules("int3 wmse"))
    x = X * np.where(np.arange(12)[:, None] < 5, [9] + [0.1] * 7, [0.1] * 7 + [9])
    got = q.quantize(p, x, stats=q.calibrate(p, [x]))["w"]
    alone = qpass.transform(lambda p, x: x @ p["w"], rules("int3 wmse"))
    for expert, part in ((0, x[:5]), (2, x[5:]), (1, x)):
        mine = {"w": p["w"][expert]}
        wanted = alone.quantize(mine, part, stats=alone.calibrate(mine, [part]))["w"]
        np.testing.assert_array_equal(got.dequantize()[expert], wanted.dequantize())
