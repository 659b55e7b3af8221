"""Products with a layer of a stack of weights."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


def alone(run_stacked: Callable[..., Any]) -> Callable[..., Any]:
    """`Kernel.run` by a `Kernel.run_stacked`: a stack of one layer."""

    def run(product: Any, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any, **how: Any) -> Any:
        stack, stack_scale = jnp.expand_dims(rhs, 0), jnp.expand_dims(rhs_scale, 0)
        return run_stacked(product, lhs, lhs_scale, stack, stack_scale, jnp.int32(0), **how)

    return run
