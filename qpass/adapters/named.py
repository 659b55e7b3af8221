"""Arrays by the path of their weight, held against what a program asks for."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from qpass.errors import CallError
from qpass.numerics import QTensor
from qpass.suggest import did_you_mean, shortened


def check_known(given: Iterable[str], wanted: Mapping[str, Any], what: str, option: str) -> None:
    """Refuse arrays of another program.

    Args:
        given: paths of weights.
        wanted: by path, the weights that are asked for.
        what: what the arrays are, for the message.
        option: of a rule, what asks for them.

    Raises:
        CallError: naming them.
    """
    unknown = [path for path in given if path not in wanted]
    if unknown:
        meant = did_you_mean(unknown[0], wanted) if wanted else f"no rule has {option} here."
        raise CallError(
            f"give {what} of this program and its rules; none is for {shortened(unknown, 5)}: "
            f"{meant}"
        )


def check_float(weights: Mapping[str, Any], task: str) -> None:
    """Refuse weights that come quantized.

    Raises:
        CallError: naming them, and the task that needs floats.
    """
    quantized = [path for path, value in weights.items() if isinstance(value, QTensor)]
    if quantized:
        raise CallError(f"{task} of float weights; quantized are {shortened(quantized, 5)}.")


def misfits(name: str, array: Any, shape: tuple[int, ...]) -> list[str]:
    """How an array differs from the shape that is asked for; nothing where it does not."""
    has = jnp.shape(array)
    return [] if has == shape else [f"{name} has {list(has)}, not {list(shape)}"]
