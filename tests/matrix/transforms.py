"""The transforms of the matrix: each makes of ``f(params, x)`` another function of the two.

``f`` returns a tree of arrays with a batch in front of ``x``; parameters may hold leaves that are
not floating (step counters, keys of random numbers), which no derivative is taken of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

Function = Callable[[Any, Any], Any]


def _same(params: Any, x: Any) -> tuple[Any, Any]:
    return params, x


@dataclass(frozen=True)
class Transform:
    """A row of the matrix.

    Attributes:
        name: as the table shows it.
        lift: makes the transformed function.
        arguments: makes its arguments from those of ``f``.
        derivative: whether the results are derivatives with respect to the weights.
        forward: whether JAX can differentiate it in forward mode only.
        rules: functions of derivative rules, with example arguments: their contractions are in no
            jaxpr until somebody differentiates.
        eager: whether it is called without `jax.jit` around it.
        lifts_modules: whether it is for modules: it cannot go around a transformed function.
        abstract: whether it runs nothing, on shapes alone.
    """

    name: str
    lift: Callable[[Function], Function]
    arguments: Callable = _same
    derivative: bool = False
    forward: bool = False
    rules: Callable | None = None
    eager: bool = False
    lifts_modules: bool = False
    abstract: bool = False


def total(out: Any) -> jax.Array:
    """A smooth number that every floating result takes part in."""
    return sum((jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(out) if _floats(a)), jnp.zeros(()))


def _floats(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def split(params: Any) -> tuple[list, list]:
    """The floating leaves, and the others."""
    leaves = jax.tree.leaves(params)
    return [a for a in leaves if _floats(a)], [a for a in leaves if not _floats(a)]


def merged(params: Any, floats: list, others: list) -> Any:
    """``params`` with these leaves."""
    leaves, tree = jax.tree.flatten(params)
    one, other = iter(floats), iter(others)
    return jax.tree.unflatten(tree, [next(one if _floats(a) else other) for a in leaves])


def on_floats(f: Function, params: Any, x: Any) -> tuple[Callable, list]:
    """``f`` as a function of the floating leaves of ``params`` alone, and these."""
    floats, others = split(params)
    return lambda leaves: f(merged(params, leaves, others), x), floats


def direction(tree: Any) -> Any:
    """A tangent or cotangent that does not depend on the values."""
    return jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), tree)


def _grad(f, p, x):
    g, floats = on_floats(lambda p, x: total(f(p, x)), p, x)
    return jax.grad(g)(floats)


def value_and_grad(f: Function, p: Any, x: Any) -> Any:
    """Number and gradient, with what ``f`` returned beside them."""

    def number(p, x):
        out = f(p, x)
        return total(out), out

    g, floats = on_floats(number, p, x)
    return jax.value_and_grad(g, has_aux=True)(floats)


def jvp(f: Function, p: Any, x: Any) -> Any:
    """Result and tangent of the floating results, along `direction`."""
    g, floats = on_floats(lambda p, x: split(f(p, x))[0], p, x)
    return jax.jvp(g, (floats,), (direction(floats),))


def _vjp(f, p, x):
    g, floats = on_floats(lambda p, x: split(f(p, x))[0], p, x)
    out, pull = jax.vjp(g, floats)
    return out, pull(direction(out))


def _linearize(f, p, x):
    g, floats = on_floats(lambda p, x: split(f(p, x))[0], p, x)
    out, push = jax.linearize(g, floats)
    return out, push(direction(floats)), push(floats)


def _hvp(f, p, x):
    g, floats = on_floats(lambda p, x: total(f(p, x)), p, x)
    return jax.jvp(jax.grad(g), (floats,), (direction(floats),))


def _rows(x):
    return jax.tree.map(lambda a: a[:, None], x)


def _row(x, i):
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, i, 1), x)


def _length(x):
    return jax.tree.leaves(x)[0].shape[0]


def _scan(f, p, x):
    def step(carry, row):
        out = f(p, row)
        return carry + total(out), out

    return lax.scan(step, jnp.zeros(()), _rows(x))


def _fori(f, p, x):
    def add(i, value):
        return value + total(f(p, _row(x, i)))

    return lax.fori_loop(0, _length(x), add, jnp.zeros(()))


def _while(f, p, x):
    def body(state):
        i, value = state
        return i + 1, value + total(f(p, _row(x, i)))

    return lax.while_loop(lambda s: s[0] < _length(x), body, (0, jnp.zeros(())))[1]


def _always(x):
    return jnp.sum(jax.tree.leaves(x)[0]) > -100


def _cond(f, p, x):
    return lax.cond(_always(x), f, lambda p, x: jax.tree.map(jnp.zeros_like, f(p, x)), p, x)


def _switch(f, p, x):
    def reversed_rows(p, x):
        return f(p, jax.tree.map(lambda a: a[::-1], x))

    def nothing(p, x):
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, p, x))

    return lax.switch(jnp.int32(_always(x)), [nothing, reversed_rows, f], p, x)


def _parts(f, p):
    """The floating results of ``f`` as a function of floating leaves, other leaves and ``x``."""
    return lambda floats, others, x: split(f(merged(p, floats, others), x))[0]


def _jvp_rule(f, p):
    """A derivative rule that is told apart from JAX's own by its factor."""

    def rule(primals, tangents):
        floats, *rest = primals
        out, dot = jax.jvp(lambda a: _parts(f, p)(a, *rest), (floats,), (tangents[0],))
        return out, jax.tree.map(lambda a: 2 * a, dot)

    return rule


def _custom_jvp(f, p, x):
    call = jax.custom_jvp(_parts(f, p))
    call.defjvp(_jvp_rule(f, p))
    return call(*split(p), x)


def _vjp_rule(f, p):
    def fwd(floats, *rest):
        return jax.vjp(lambda a: _parts(f, p)(a, *rest), floats)

    def bwd(pull, cotangents):
        (grads,) = pull(cotangents)
        return jax.tree.map(lambda a: 2 * a, grads), None, None

    return fwd, bwd


def _custom_vjp(f, p, x):
    call = jax.custom_vjp(_parts(f, p))
    call.defvjp(*_vjp_rule(f, p))
    return call(*split(p), x)


def _programs_of_jvp(f, p, x):
    floats, others = split(p)
    primals = (floats, others, x)
    return [jax.make_jaxpr(lambda dots: _jvp_rule(f, p)(primals, (dots,)))(floats)]


def _programs_of_vjp(f, p, x):
    fwd, bwd = _vjp_rule(f, p)
    forward, (out, pull) = jax.make_jaxpr(fwd, return_shape=True)(*split(p), x)
    return [forward, jax.make_jaxpr(bwd)(pull, out)]


def _shard_map(f, p, x):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rows = PartitionSpec("d")

    def body(p, x):
        return jax.tree.map(lambda a: a[None], f(p, x))

    return jax.shard_map(body, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows)(p, x)


def _donated(f, p, x):
    """A step that gives the buffers of the parameters to those that it returns."""

    def step(p, x):
        g, floats = on_floats(lambda p, x: total(f(p, x)), p, x)
        value, grads = jax.value_and_grad(g)(floats)
        new = [a - 0.1 * g for a, g in zip(floats, grads, strict=True)]
        return merged(p, new, split(p)[1]), value

    return jax.jit(step, donate_argnums=0)(p, x)


def _stacked(p, x):
    """Two models: this one, and one of smaller weights."""
    return jax.tree.map(lambda a: jnp.stack([a, a * 0.75 if _floats(a) else a]), p), x


def _shapes(p, x):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (p, x))


def _with(apply: Callable) -> Callable[[Function], Function]:
    return lambda f: partial(apply, f)


TRANSFORMS = (
    Transform("plain call", lambda f: f, eager=True),
    Transform("`jit`", jax.jit),
    Transform("`grad`", _with(_grad), derivative=True),
    Transform("`value_and_grad`", _with(value_and_grad), derivative=True),
    Transform("`jvp`", _with(jvp), derivative=True),
    Transform("`vjp`", _with(_vjp), derivative=True),
    Transform("`linearize`", _with(_linearize), derivative=True),
    Transform("`jvp` of `grad`", _with(_hvp), derivative=True),
    Transform(
        "`vmap` over the batch", lambda f: jax.vmap(f, (None, 0)), lambda p, x: (p, _rows(x))
    ),
    Transform("`vmap` over weights", lambda f: jax.vmap(f, (0, None)), _stacked),
    Transform(
        "`checkpoint` with a policy",
        lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable),
    ),
    Transform("`scan`", _with(_scan)),
    Transform("`lax.map`", lambda f: lambda p, x: lax.map(partial(f, p), _rows(x))),
    Transform("`while_loop`", _with(_while), forward=True),
    Transform("`fori_loop`", _with(_fori)),
    Transform("`cond`", _with(_cond)),
    Transform("`switch`", _with(_switch)),
    Transform("`custom_jvp`", _with(_custom_jvp), rules=_programs_of_jvp),
    Transform("`custom_vjp`", _with(_custom_vjp), rules=_programs_of_vjp),
    Transform("`shard_map`", _with(_shard_map)),
    Transform("donated arguments", _with(_donated), derivative=True, eager=True),
    Transform("`eval_shape`", lambda f: f, _shapes, abstract=True),
)
