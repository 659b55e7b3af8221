"""shard_map on four devices: manual axes, sums over devices, stored weights split with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import qpass
from tests.jaxprs import equations
from tests.rewriting.oracle import INT8, check, close, compiled, plain, quantized, random, seen

P = PartitionSpec
W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)


def mesh(*shape):
    names = ("d", "m")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


@pytest.mark.parametrize("check_vma", [True, False])
def test_rows_split_over_devices_with_a_sum(check_vma):
    def model(dot):
        def body(x, w):
            return dot(x, w) + lax.psum(jnp.tanh(dot(x, w)).sum(), "d")

        def f(p, x):
            mapped = jax.shard_map(
                body, mesh=mesh(4), in_specs=(P("d"), P()), out_specs=P("d"), check_vma=check_vma
            )
            return mapped(x, p["a"])

        return f

    q = check(model, W, X, vmap=False)
    (eqn,) = (e for e in equations(jax.make_jaxpr(q)(W, X)) if e.primitive.name == "shard_map")
    assert eqn.params["check_vma"] == check_vma


def test_columns_of_the_weight_split_over_devices():
    def model(dot):
        def f(p, x):
            specs = (P(), P(None, "d"))
            columns = jax.shard_map(dot, mesh=mesh(4), in_specs=specs, out_specs=P(None, "d"))
            return jnp.tanh(columns(x, p["a"]))

        return f

    check(model, W, X, vmap=False)


def test_scan_inside():
    def model(dot):
        def body(x, w):
            return lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(dot(c, w)), None)), x, w)[0]

        def f(p, x):
            mapped = jax.shard_map(body, mesh=mesh(4), in_specs=(P("d"), P()), out_specs=P("d"))
            return mapped(x, p["w"])

        return f

    check(model, {"w": random(2, 8, 8, seed=5)}, X, vmap=False)


def test_a_custom_rule_inside():
    def model(dot):
        @jax.custom_vjp
        def call(x, w):
            return jnp.tanh(dot(x, w))

        def fwd(x, w):
            return jnp.tanh(dot(x, w)), w

        call.defvjp(fwd, lambda w, g: (2.0 * plain(g, seen(dot, w).T), jnp.zeros_like(w)))

        def f(p, x):
            specs = {"in_specs": (P("d"), P()), "out_specs": P("d"), "check_vma": False}
            return jax.shard_map(call, mesh=mesh(4), **specs)(x, p["a"])

        return f

    check(model, W, X, vmap=False)


def test_partly_manual_with_a_contraction_over_devices():
    """Each device quantizes its part of the contracted axis: two scales instead of one."""

    def model(dot):
        def f(p, x):
            mapped = jax.shard_map(
                lambda w, x: lax.psum(dot(x, w), "m"),
                mesh=mesh(2, 2),
                in_specs=(P("m"), P(None, "m")),
                out_specs=P(),
                axis_names={"m"},
            )
            return mapped(p["a"], x)

        return f

    q = qpass.transform(model(plain), INT8)
    wanted = sum(plain(X[:, half], _rounded(W["a"])[half]) for half in np.split(np.arange(8), 2))
    close(compiled(q)(W, X), wanted, 0.02)
    slope = compiled(jax.grad(lambda p, x: q(p, x).sum()))(W, X)
    close(slope["a"], jax.grad(lambda p: plain(X, p["a"]).sum())(W)["a"], 0.02)
    close(compiled(q)(q.quantize(W, X), X), compiled(q)(W, X))


def _rounded(w):
    return seen(quantized, w)


def test_the_weight_is_a_shard_only_inside():
    q = qpass.transform(
        lambda p, x: jax.shard_map(
            lambda x, w: plain(x, lax.all_gather(w, "d", tiled=True)),
            mesh=mesh(4),
            in_specs=(P("d"), P("d")),
            out_specs=P("d"),
        )(x, p["a"]),
        INT8,
        strict=False,
    )
    with pytest.warns(UserWarning, match="fits"):
        close(q(W, X), plain(X, W["a"]))
