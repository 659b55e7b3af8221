"""`value_and_grad`: the derivative inside of what is transformed, its products among the sites."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from qpass.errors import CallError
from qpass.integrations.boundary import holds_objects
from qpass.transformed import Transformed


def value_and_grad(
    q: Transformed, *, argnums: int | None = None, has_aux: bool = False
) -> Transformed:
    """The function and its gradient, quantized by the same rules; like `jax.value_and_grad`.

    What is transformed holds the derivative, so the backward products are sites of its plan, and
    the magnitudes of gradients come back as those of activations do:

    >>> step = qpass.value_and_grad(q)                                   # doctest: +SKIP
    >>> (loss, grads), state = step.apply(state, params, batch)          # doctest: +SKIP

    Args:
        q: a transformed loss, `qpass.transform(loss, rules)`.
        argnums: position of the argument to differentiate; default: that of the parameters.
        has_aux: the loss returns ``(loss, aux)``; the value then is such a pair.

    Returns:
        a `Transformed` that returns ``(value, gradients)``.

    Raises:
        CallError: ``q`` is no transformed function, or its parameters are not one argument.
    """
    if not isinstance(q, Transformed):
        raise CallError(
            f"give value_and_grad a function that qpass.transform made; got {type(q).__name__}. "
            "Of a model object transform the loss, a function of it: "
            "q = qpass.transform(lambda model, x: ..., rules)."
        )
    position = _position(q) if argnums is None else argnums
    plain = functools.partial(_differentiated, q.fn, position, has_aux)
    functools.update_wrapper(plain, q.fn, updated=())
    return Transformed(plain, q.options, q.given)


def _differentiated(
    fn: Callable, position: int, has_aux: bool, /, *args: Any, **kwargs: Any
) -> Any:
    transform: Callable = jax.value_and_grad
    if holds_objects((args, kwargs)):
        from flax import nnx

        transform = nnx.value_and_grad
    return transform(fn, argnums=position, has_aux=has_aux)(*args, **kwargs)


def _position(q: Transformed) -> int:
    """Which argument holds the parameters."""
    where = q.options.params
    if isinstance(where, int):
        return where
    names = list(inspect.signature(q.fn).parameters)
    if isinstance(where, str) and where in names:
        return names.index(where)
    raise CallError(
        f"give value_and_grad the argument to differentiate, argnums=: transform was given "
        f"params={where!r}, which names none."
    )
