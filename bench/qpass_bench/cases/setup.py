"""What a case is under a variant: a float function that rules rewrite, and a program to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def as_it_is(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The program that is the function itself."""
    return forward


@dataclass(frozen=True)
class Setup:
    """``program(forward)(params, *args)`` is timed, where rules may have rewritten ``forward``.

    Attributes:
        forward: the float function.
        params: its first argument, float, as the variant wants them.
        example: its other arguments, from which its plan is made.
        args: other arguments of the program; None: the example.
        program: from a function to what calls it, such as a loop that decodes.
    """

    forward: Callable[..., Any]
    params: Any
    example: tuple[Any, ...]
    args: tuple[Any, ...] | None = None
    program: Callable[[Callable[..., Any]], Callable[..., Any]] = as_it_is
