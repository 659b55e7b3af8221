"""Between a call and its program: arguments become pytrees of arrays, updates get back to objects.

A program is a pure function of arrays. Arguments that are pytrees stay what they are. Objects that
a call may update (Flax NNX modules) enter as pytrees, and what the call did to them comes out as
its *state*, which is written back to the caller's objects.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


class Boundary(Protocol):
    """One call, from its arguments to its result."""

    @property
    def args(self) -> tuple:
        """Positional arguments, pytrees of arrays and static values."""
        ...

    @property
    def kwargs(self) -> dict:
        """Keyword arguments, likewise."""
        ...

    def run(self, fn: Callable, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        """Inside the trace: ``(result, state)`` of ``fn`` on arguments of this form."""
        ...

    def leave(self, result: Any, state: Any) -> Any:
        """The caller's result; updates are written to the caller's objects."""
        ...

    def restore(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Arguments of this form as the caller would have given them: new objects."""
        ...


@dataclass(frozen=True)
class Pure:
    """The boundary of a call without objects: nothing to do."""

    args: tuple
    kwargs: dict

    def run(self, fn: Callable, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        """Call the function."""
        return fn(*args, **kwargs), ()

    def leave(self, result: Any, state: Any) -> Any:
        """The result itself."""
        del state
        return result

    def restore(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The arguments themselves."""
        return args, kwargs


@contextmanager
def enter(args: tuple, kwargs: dict, is_wrapped: Callable[[Any], bool]) -> Iterator[Boundary]:
    """The boundary of a call with these arguments.

    Args:
        args: positional arguments, as the caller gives them.
        kwargs: keyword arguments.
        is_wrapped: tells a value that stands for one array (a QTensor) and is kept whole.
    """
    if holds_objects((args, kwargs)):
        from qpass.integrations.nnx import entered

        with entered(args, kwargs, is_wrapped) as call:
            yield call
    else:
        yield Pure(args, kwargs)


def explain_update(error: Exception) -> str | None:
    """What to do about a traced function that updates an object it was not given.

    Returns:
        None where ``error`` says something else.
    """
    errors = sys.modules.get("flax.errors")
    if errors is None or not isinstance(error, errors.TraceContextError):
        return None
    return (
        "give the NNX object to the function as an argument: the function updates one that it "
        f"closes over, and that update would be lost. Flax says: {error}"
    )


def holds_objects(tree: Any) -> bool:
    """Whether a call with these arguments has objects to update."""
    # Nobody has an NNX object who has not imported it; qpass itself does not need it.
    if "flax.nnx" not in sys.modules:
        return False
    from qpass.integrations.nnx import holds_nodes

    return holds_nodes(tree)
