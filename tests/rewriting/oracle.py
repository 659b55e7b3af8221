"""A hand-written quantized product, and the checks that hold a transformed model against it.

A model is written once, with the product ``dot`` that it uses as an argument: ``model(plain)`` is
what `qpass.transform` is given, ``model(quantized)`` is what a person would have written.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import qpass

INT8 = qpass.Rule(path="**", weight="int8", act="int8")


def plain(x: jax.Array, w: jax.Array) -> jax.Array:
    """The product ``[..., K] x [K, N]``."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def _codes(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The least scale that clips nothing; the larger side lies at -128, by a sign if need be."""
    above, below = (jnp.max(side, axis=axis, keepdims=True, initial=0) for side in (x, -x))
    larger, smaller = jnp.maximum(above, below), jnp.minimum(above, below)
    scale = jnp.maximum(larger * np.float32(1 / 128), smaller * np.float32(1 / 127))
    scale = jnp.where(larger == 0, 1.0, jnp.where(above > below, -scale, scale))
    return jnp.clip(jnp.round(x * (1 / scale)), -128, 127), scale


@jax.custom_jvp
def quantized(x: jax.Array, w: jax.Array) -> jax.Array:
    """Int8 by int8, a scale per row and per column; straight-through derivatives."""
    q, s = _codes(x, -1)
    p, t = _codes(w, 0)
    # Exact in float32: sums of K <= 16 products of integers up to 128 stay below 2**24.
    return plain(q, p) * s * t[0]


@quantized.defjvp
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    q, s = _codes(x, -1)
    p, t = _codes(w, 0)
    return quantized(x, w), plain(dx, p * t) + plain(q * s, dw)


def seen(dot: Callable, w: jax.Array) -> jax.Array:
    """``w`` as code beside a quantized product sees it: one weight, stored quantized, for all."""
    if dot is plain:
        return w
    q, s = _codes(w, 0)
    return w + lax.stop_gradient(q * s - w)


def random(*shape: int, seed: int = 0) -> jax.Array:
    """Repeatable normal numbers, small enough that tanh does not saturate."""
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape) * 0.4, jnp.float32)


def close(got: Any, wanted: Any, tolerance: float = 1e-6) -> None:
    """Equal trees within ``tolerance`` relative to the largest value of each leaf."""
    got, wanted = (jax.tree.map(_plain_array, tree) for tree in (got, wanted))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        atol = tolerance * max(1.0, float(np.max(np.abs(other), initial=0)))
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def _plain_array(x: Any) -> np.ndarray:
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def total(out: Any) -> jax.Array:
    """A smooth number that every floating result takes part in."""
    arrays = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.inexact)]
    parts = [jnp.sum(jnp.sin(x)) for x in arrays]
    return sum(parts[1:], parts[0])


def check(
    model: Callable[[Callable], Callable],
    params: Any,
    x: jax.Array,
    *,
    rules: Any = INT8,
    grad: bool = True,
    vmap: bool = True,
    stored: bool = True,
) -> qpass.Transformed:
    """Value, gradient and batching of ``transform(model(plain))`` against ``model(quantized)``.

    Values and gradients are compared eagerly and under jit, with float parameters (gradients with
    respect to parameters and input) and with stored ones (gradient with respect to the input).
    """
    q = qpass.transform(model(plain), rules)
    xs = jnp.stack([x, -0.5 * x])
    wanted = compiled(partial(_one_by_one, model(quantized), grad))(params, xs)
    first = jax.tree.map(lambda a: a[0], wanted)
    _assert_differ(first[0], compiled(model(plain))(params, x))
    for given, wrt in _kinds(q, params, x, stored):
        close(q(given, x), first[0])
        close(compiled(partial(_once, q, grad, wrt))(given, x), _chosen(first, wrt))
        if grad:
            close(jax.grad(_scalar(q), wrt)(given, x), _chosen(first, wrt)[1])
        if vmap:
            batched = jax.vmap(partial(_once, q, grad, wrt), (None, 0))
            close(compiled(batched)(given, xs), _chosen(wanted, wrt))
    return q


def compiled(fn: Callable) -> Callable:
    """`jax.jit`, compiling fast: the tests run each program once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn, compiler_options=options)


def _once(fn: Callable, grad: bool, wrt: tuple, p: Any, x: jax.Array) -> tuple:
    """``(value, gradients)``, the gradients () where they are not asked for."""
    return fn(p, x), jax.grad(_scalar(fn), wrt)(p, x) if grad else ()


def _one_by_one(fn: Callable, grad: bool, p: Any, xs: jax.Array) -> tuple:
    """The same for each row of ``xs``, without any batching rule."""
    return _stack([_once(fn, grad, (0, 1), p, x) for x in xs])


def _chosen(both: tuple, wrt: tuple) -> tuple:
    """Of the gradients, those with respect to the arguments ``wrt``."""
    value, slopes = both
    return value, tuple(slopes[i] for i in wrt) if slopes else ()


def _kinds(q: qpass.Transformed, params: Any, x: jax.Array, stored: bool) -> list[tuple]:
    """Float and stored parameters, each with the arguments to differentiate with respect to."""
    if not stored:
        return [(params, (0, 1))]
    given = q.quantize(params, x)
    assert any(isinstance(leaf, qpass.QTensor) for leaf in leaves(given))
    return [(params, (0, 1)), (given, (1,))]


def leaves(tree: Any) -> list:
    """Leaves of a tree, QTensors whole."""
    return jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, qpass.QTensor))


def _assert_differ(one: Any, other: Any) -> None:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert any(np.any(_plain_array(a) != _plain_array(b)) for a, b in pairs), (
        "the hand-written quantized model gives the float model's numbers: this checks nothing"
    )


def _stack(trees: list) -> Any:
    return jax.tree.map(lambda *a: jnp.stack(a), *trees)


def _scalar(fn: Callable) -> Callable:
    return lambda p, x: total(fn(p, x))
