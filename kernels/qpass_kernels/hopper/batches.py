"""A kernel for one matrix, run for every batch."""

from collections.abc import Callable
from typing import Any

import jax


def each(kernel: Callable[..., Any], arrays: tuple[Any, ...]) -> Any:
    """Call the kernel for each of the arrays' leading indices; a single one without a loop."""
    if arrays[0].shape[0] == 1:
        return kernel(*(x[0] for x in arrays))[None]
    return jax.vmap(kernel)(*arrays)
