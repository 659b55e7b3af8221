"""Linear pieces that are no plain layers: products found, the rest left with a reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass

INT8 = qpass.Rule(weight="int8", act="int8")
D, N, T = 16, 8, 12


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) / shape[0] ** 0.5


PARAMS = {
    "w": draw(0, D, D),
    "a": draw(1, D, 4),
    "b": draw(2, 4, D),
    "in": draw(3, D, N),
    "out": draw(4, N, D),
    "decay": jnp.linspace(-2, -0.1, N),
    "gate": draw(5, D, N),
}
X = draw(6, T, D)


def lora(p, x):
    return x @ p["w"] + (x @ p["a"]) @ p["b"] * 2


def low_rank(p, x):
    return x @ p["a"] @ p["b"] @ p["in"] @ p["out"]


def recurrence(decay, drive):
    """``h[t] = decay[t] * h[t - 1] + drive[t]`` for all t at once."""

    def compose(one, other):
        return one[0] * other[0], one[1] * other[0] + other[1]

    return lax.associative_scan(compose, (decay, drive))[1]


def diagonal_state_space(p, x):
    decay = jnp.broadcast_to(jnp.exp(p["decay"]), (T, N))
    return recurrence(decay, x @ p["in"]) @ p["out"]


def selective_state_space(p, x):
    """As in Mamba: what decays depends on the row."""
    decay = jnp.exp(-jax.nn.softplus(x @ p["gate"]))
    return recurrence(decay, x @ p["in"]) @ p["out"]


def convolved_by_fft(p, x):
    kernel = jnp.exp(p["decay"] * jnp.arange(T)[:, None])
    spectra = (jnp.fft.rfft(v, 2 * T, axis=0) for v in (kernel, x @ p["in"]))
    return jnp.fft.irfft(jnp.prod(jnp.stack([*spectra]), 0), 2 * T, axis=0)[:T] @ p["out"]


FOUND = {
    lora: {"w", "a", "b"},
    low_rank: {"a", "b", "in", "out"},
    diagonal_state_space: {"in", "out"},
    selective_state_space: {"gate", "in", "out"},
    convolved_by_fft: {"in", "out"},
}


@pytest.mark.parametrize("fn", FOUND, ids=lambda fn: fn.__name__)
def test_products_are_quantized_and_the_rest_is_as_it_was(fn):
    """Near the float64 result of the same weights: what lies between the products is untouched."""
    params = {name: PARAMS[name] for name in FOUND[fn] | {"decay"}}
    q = qpass.transform(fn, INT8)
    stored = q.quantize(params, X)
    quantized = {name for name, leaf in stored.items() if isinstance(leaf, qpass.QTensor)}
    assert quantized == FOUND[fn]
    got = np.asarray(jax.jit(q)(stored, X))
    np.testing.assert_array_equal(got, jax.jit(q)(params, X))
    want = np.asarray(fn(params, X))
    assert 0 < np.abs(got - want).mean() < 0.03 * np.abs(want).mean()


def test_the_recurrence_is_right_and_stays_float():
    decay, drive = np.exp(-np.abs(draw(7, T, N))), np.asarray(draw(8, T, N))
    state, want = np.zeros(N), []
    for one, other in zip(decay.astype(np.float64), drive.astype(np.float64), strict=True):
        state = one * state + other
        want.append(state)
    np.testing.assert_allclose(recurrence(decay, drive), want, rtol=1e-5, atol=1e-6)
    plan = qpass.transform(selective_state_space, INT8).plan(PARAMS, X)
    assert len(plan.decisions) == 3


def matrix_valued(p, x):
    """States that matrices turn: products of two activations at every level of the scan."""
    turns = jnp.einsum("td,den->ten", x, jnp.ones((D, N, N))) / D
    return lax.associative_scan(jnp.matmul, turns) * (x @ p["in"]).sum()


def test_products_inside_of_an_associative_scan_have_a_reason():
    plan = qpass.transform(matrix_valued, INT8).plan(PARAMS, X)
    reasons = {d.reason for d in plan.decisions if d.site.role == "activations"}
    assert reasons == {"product of two activations: only a rule with role='activations' takes it"}


def solved(p, x):
    gram = p["w"] @ p["w"].T + jnp.eye(D)
    factor = jnp.linalg.cholesky(gram)
    return lax.linalg.triangular_solve(factor, x.T, left_side=True, lower=True).T @ p["w"]


def factored(p, x):
    return jnp.linalg.svd(x @ p["w"], full_matrices=False)[0] @ jnp.linalg.eigh(jnp.eye(D))[1][:T]


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (solved, {"cholesky": "factors a matrix", "triangular_solve": "solves equations"}),
        (factored, {"svd": "factors a matrix", "eigh": "factors a matrix"}),
        (convolved_by_fft, {"fft": "is a fixed transform"}),
    ],
)
def test_linear_algebra_is_left_alone_with_a_reason(fn, named):
    plan = qpass.transform(fn, INT8).plan(PARAMS, X)
    rows = {row.op: row for row in plan.rows if row.role == "linear"}
    reasons = {op: f"{op} {what}: it is no product, and stays float" for op, what in named.items()}
    assert {op: row.reason for op, row in rows.items()} == reasons
    assert all(row.source.startswith("test_other_pieces.py:") for row in rows.values())
    assert not any("looked into" in text for text in plan.findings)
