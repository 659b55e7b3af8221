"""Where a kernel of this machine is called, and where the next one of the table is taken.

The kernel here answers in hundreds, so that the numbers tell who multiplied.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from qpass_kernels import REFERENCE, Kernel
from qpass_kernels.kernel import result_type


def _hundreds(product, lhs, lhs_scale, rhs, rhs_scale):
    like = result_type(product, (lhs, lhs_scale, rhs, rhs_scale))
    plain = REFERENCE.run(product, lhs, lhs_scale, rhs, rhs_scale)
    assert plain.shape == like.shape
    return plain * 0 + 100


TABLE = (Kernel("hundreds", ("cpu",), lambda p: None, _hundreds, local=True), REFERENCE)
W = jnp.eye(8)
X = jnp.ones((4, 8))
q = qpass.transform(lambda w, x: x @ w, [qpass.Rule(weight="int8", act="int8")], kernels=TABLE)


def here(out):
    return bool((np.asarray(out) == 100).all())


def elsewhere(out):
    return bool((np.abs(np.asarray(out) - 1) < 0.05).all())


def mesh(*shape):
    return jax.make_mesh(shape, ("d", "m")[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))


TRANSFORMS = {
    "eager": q,
    "jit": jax.jit(q),
    "vmap over rows": jax.vmap(q, (None, 0)),
    "vmap over both": lambda w, x: jax.vmap(q)(jnp.stack([w, w]), jnp.stack([x, x])),
    "grad": lambda w, x: jax.value_and_grad(lambda w: q(w, x).mean())(w)[0],
    "scan": lambda w, x: lax.scan(lambda c, x: (c, q(w, x)), 0, x[None])[1],
    "while": lambda w, x: lax.fori_loop(0, 2, lambda i, y: q(w, x), x),
    "remat": jax.checkpoint(q),
    "one platform": lambda w, x: jax.jit(q).trace(w, x).lower().compile()(w, x),
    "pmap": lambda w, x: jax.pmap(partial(q, w))(x[:, None]),
}


@pytest.mark.parametrize("transformed", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_program_compiled_here_calls_it(transformed):
    assert here(transformed(W, X))


def test_without_jit_too():
    with jax.disable_jit():
        assert here(q(W, X))
        assert elsewhere(q(W, split(X, P("d"))))


def test_an_exported_program_does_not():
    exported = export.export(jax.jit(q))(W, X)
    assert elsewhere(export.deserialize(exported.serialize()).call(W, X))


def test_nor_does_one_for_several_platforms():
    traced = jax.jit(q).trace(W, X)
    assert "1.000000e+02" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "1.000000e+02" not in traced.lower(lowering_platforms=("cpu", "cuda")).as_text()


@pytest.mark.parametrize("spec", [P("d"), P(None, "d"), P()], ids=str)
def test_nor_one_that_the_compiler_splits(spec):
    assert elsewhere(jax.jit(q)(W, split(X, spec)))
    assert elsewhere(q(W, split(X, spec)))


def split(x, spec):
    return jax.device_put(x, NamedSharding(mesh(4), spec))


def mapped(mesh, axes):
    return jax.shard_map(
        q, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"), axis_names=set(axes)
    )


def test_a_shard_map_over_all_axes_does():
    assert here(jax.jit(mapped(mesh(4), "d"))(W, X))
    assert here(jax.jit(mapped(mesh(2, 2), "dm"))(W, X))


def test_a_shard_map_that_leaves_an_axis_to_the_compiler_does_not():
    assert elsewhere(jax.jit(mapped(mesh(2, 2), "d"))(W, X))


def test_one_program_may_do_both():
    inside, outside = jax.jit(lambda w, x: (mapped(mesh(4), "d")(w, x), q(w, x)))(W, X)
    assert here(inside)
    assert elsewhere(outside)


def test_the_plan_names_it():
    (row,) = q.plan(W, X).rows
    assert row.kernel == "hundreds"
