"""Diffrax: a neural differential equation, its derivative rule a `filter_custom_vjp` of loops."""

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from tests.helpers import qtensor_paths
from tests.models.checks import BOUND, INT8, MARKS, relative
from tests.ops.test_bit_exact import assert_same_bits

pytestmark = MARKS


def solve(field, starts):
    """Ends of the paths, by the solver's default adjoint: checkpoints of a while loop."""
    from diffrax import Heun, ODETerm, diffeqsolve

    term = ODETerm(lambda t, y, field: jax.vmap(field)(y))
    return diffeqsolve(term, Heun(), 0.0, 1.0, 0.25, starts, args=field, max_steps=8).ys[0]


def test_a_neural_differential_equation():
    import equinox as eqx

    # smooth: where a relu switches, a gradient jumps however small the error
    field = eqx.nn.MLP(8, 8, 32, 1, activation=jnp.tanh, key=jax.random.key(0))
    starts = jax.random.normal(jax.random.key(1), (3, 8))
    q = qpass.transform(solve, INT8)
    stored, jitted = q.quantize(field, starts), eqx.filter_jit(q)
    assert qtensor_paths(stored) == {f"layers/{i}/weight" for i in range(2)}
    got, wanted = jitted(field, starts), eqx.filter_jit(solve)(field, starts)
    assert 0 < relative(got, wanted) < BOUND
    assert_same_bits(jitted(stored, starts), got)
    rows = q.plan(field, starts).rows
    assert {row.weight for row in rows if row.quantized} == qtensor_paths(stored)
    assert all(row.quantized or row.reason for row in rows)

    def gradients(fn):
        loss = eqx.filter_grad(lambda field: jnp.mean(fn(field, starts) ** 2))
        return jax.tree.leaves(eqx.filter_jit(loss)(field))

    for a, b in zip(gradients(q), gradients(solve), strict=True):
        assert relative(np.asarray(a), np.asarray(b)) < 0.05
