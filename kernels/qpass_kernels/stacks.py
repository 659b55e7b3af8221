"""Products with a layer of a stack of weights, and several of them at once."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


def alone(run_stacked: Callable[..., Any]) -> Callable[..., Any]:
    """`Kernel.run` by a `Kernel.run_stacked`: a stack of one layer."""

    def run(
        product: Any, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any, *extra: Any, **how: Any
    ) -> Any:
        stack, stack_scale = jnp.expand_dims(rhs, 0), jnp.expand_dims(rhs_scale, 0)
        return run_stacked(product, lhs, lhs_scale, stack, stack_scale, jnp.int32(0), *extra, **how)

    return run


def one_of(run_joined: Callable[..., Any]) -> Callable[..., Any]:
    """`Kernel.run_stacked` by a `Kernel.run_joined`: one product alone."""

    def run_stacked(
        product: Any,
        lhs: Any,
        lhs_scale: Any,
        stack: Any,
        stack_scale: Any,
        index: Any,
        **how: Any,
    ) -> Any:
        (out,) = run_joined((product,), lhs, lhs_scale, ((stack, stack_scale, index),), **how)
        return out

    return run_stacked
