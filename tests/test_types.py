"""Every numeric type through the whole of qpass, all in one program of scanned layers."""

import jax
import jax.numpy as jnp
import numpy as np

import qpass

LAYERS, WIDTH = 2, 64
# The greatest relative error of a product of a weight and an activation of the type.
BOUNDS = {
    "int8": 0.01, "int7": 0.02, "int6": 0.04, "int5": 0.08, "int4": 0.16, "int3": 0.35,
    "int2": 1.0, "uint8": 0.01, "uint4": 0.16, "fp8_e4m3": 0.042, "fp8_e5m2": 0.085,
    "fp8_e4m3fnuz": 0.042, "fp8_e5m2fnuz": 0.085, "fp8_e4m3b11fnuz": 0.042, "fp4_e2m1": 0.17,
    "nf4": 0.15, "mxfp8": 0.045, "mxfp6": 0.048, "mxfp4": 0.19, "nvfp4": 0.15,
}  # fmt: skip
# One of each kind of code, packing and scale: weight-only, and differentiated.
ALONE = ("int3", "uint4", "fp8_e4m3fnuz", "nf4", "mxfp6", "nvfp4")
TRAINED = ("int3", "nf4", "nvfp4")


def model(params, x):
    """For every leaf the products `x @ w` with its layers, `[layers, rows, WIDTH]`."""

    def step(carry, layer):
        return carry, {name: carry @ w for name, w in layer.items()}

    return jax.lax.scan(step, x, params)[1]


def weights(names):
    keys = jax.random.split(jax.random.key(0), len(names))
    shape = (LAYERS, WIDTH, WIDTH)
    return {name: jax.random.normal(k, shape) for name, k in zip(names, keys, strict=True)}


X = np.random.default_rng(1).standard_normal((16, WIDTH)).astype(np.float32)


def relative(got, wanted):
    return jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted)


def test_stored_weights_serve_what_training_saw():
    rules = [qpass.Rule(path=name, weight=name, act=name) for name in BOUNDS]
    rules += [qpass.Rule(path=f"{name} alone", weight=name) for name in ALONE]
    params = weights([*BOUNDS, *(f"{name} alone" for name in ALONE)])
    q = qpass.transform(model, rules)
    stored = q.quantize(params, X)
    served, seen, exact = jax.jit(q)(stored, X), jax.jit(q)(params, X), model(params, X)
    for leaf in params:
        name, *alone = leaf.split()
        assert stored[leaf].qtype.name == name
        np.testing.assert_array_equal(served[leaf], seen[leaf], err_msg=leaf)
        bound = BOUNDS[name] * (0.8 if alone else 1)
        assert relative(served[leaf], exact[leaf]) < bound, leaf


def test_gradients_reach_the_weights():
    params = weights(TRAINED)
    q = qpass.transform(model, [qpass.Rule(path=n, weight=n, act=n) for n in TRAINED])

    def loss(params, f):
        return sum(jnp.sum(y**2) for y in f(params, X).values())

    got = jax.jit(jax.grad(loss), static_argnums=1)(params, q)
    wanted = jax.grad(loss)(params, model)
    for name in TRAINED:
        assert relative(got[name], wanted[name]) < 1.3 * BOUNDS[name], name


def test_every_type_is_here():
    assert list(BOUNDS) == [qtype.name for qtype in qpass.numerics.QTYPES]
