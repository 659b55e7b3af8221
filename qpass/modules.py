"""Model objects: what `transform` gives back for a module, or a method of one, of any framework.

A model object that is a pytree (an Equinox module, a registered dataclass, an array-holding
`jax.tree_util.Partial`) becomes another pytree with the same leaves; a Flax NNX module becomes
another NNX module that shares its Variables. Either is called, differentiated, mapped and updated
like the original.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from qpass.errors import CallError
from qpass.given import same
from qpass.graph.program import is_dynamic
from qpass.integrations.called import Call, CalledModule
from qpass.numerics import QTensor
from qpass.pipeline import Options
from qpass.transformed import Transformed


@functools.partial(jax.tree_util.register_dataclass, data_fields=["module"], meta_fields=["call"])
@dataclass(frozen=True, eq=False)
class TransformedModule(CalledModule):
    """A callable pytree with its contractions quantized by rules; itself a pytree.

    Its leaves are those of the module, so that `jax.tree.map`, `jax.grad`, `jax.vmap` and
    optimizers take it for the module.

    Attributes:
        module: the module.
        call: the transformed call of it (or of the method that was given).
    """

    module: Any
    call: Call


@dataclass(frozen=True)
class Method:
    """A method as a function of the object that it belongs to.

    Attributes:
        owner: the object's class.
        name: the method's name.
    """

    owner: type
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", getattr(self.owner, self.name).__doc__)

    def __call__(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method of this object."""
        return getattr(module, self.name)(*args, **kwargs)

    @property
    def __name__(self) -> str:
        """The method as it is written: ``MLP``, ``MLP.encode``."""
        return (
            self.owner.__name__ if self.name == "__call__" else f"{self.owner.__name__}.{self.name}"
        )

    @property
    def __signature__(self) -> inspect.Signature:
        """The method's own, its object first."""
        return inspect.signature(getattr(self.owner, self.name))


class MethodCall(Transformed):
    """The transformed call of a model object, part of its tree structure.

    Equal to another one of the same method, rules, options and ranges, so that a module transformed
    twice is compiled once, and fits the optimizer state of the other.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MethodCall):
            return NotImplemented
        return self is other or (
            (self.fn, self.options) == (other.fn, other.options) and same(self.given, other.given)
        )

    def __hash__(self) -> int:
        return hash(self.fn)

    def __repr__(self) -> str:
        name = getattr(self.fn, "__name__", self.fn)
        return f"{type(self).__name__}({name}, rules={len(self.options.rules)})"


def transform_callable(fn: Callable, options: Options) -> Transformed | CalledModule:
    """A function, a model object or a method of one, with its contractions quantized."""
    if isinstance(fn, CalledModule):
        return type(fn)(fn.module, MethodCall(fn.call, options))
    module, name = _bound(fn) or (fn, "__call__")
    wrapper = _wrapper(module)
    if wrapper is None:
        return Transformed(fn, options)
    return wrapper(module, MethodCall(Method(type(module), name), options))


def _bound(fn: Any) -> tuple[Any, str] | None:
    """``(object, name of its method)`` where ``fn`` is a bound method."""
    if hasattr(fn, "__self__") and hasattr(fn, "__func__"):
        owner, function = fn.__self__, fn.__func__
        name = getattr(function, "__name__", "")
        return (owner, name) if hasattr(type(owner), name) else None
    # Bound methods that are jitted by `eqx.filter_jit` or `nnx.jit` are partial applications.
    given = getattr(fn, "args", None)
    if isinstance(given, tuple) and len(given) == 1 and hasattr(fn, "func"):
        (owner,), function = given, fn.func
        name = getattr(function, "__name__", "")
        own = inspect.getattr_static(type(owner), name, None)
        return (owner, name) if own is function else None
    return None


def _wrapper(module: Any) -> type[CalledModule] | None:
    """The class for a transformed ``module``; None where it is no model object."""
    if is_nnx_module(module):
        from qpass.integrations.nnx import TransformedNnxModule

        return TransformedNnxModule
    return TransformedModule if is_model(module) else None


def is_model(value: Any) -> bool:
    """Whether a value is a pytree of its own kind that holds arrays."""
    leaves = jax.tree.leaves(value, is_leaf=lambda leaf: isinstance(leaf, QTensor))
    if len(leaves) == 1 and leaves[0] is value:
        return False
    return any(isinstance(leaf, QTensor) or is_dynamic(leaf) for leaf in leaves)


def is_nnx_module(value: Any) -> bool:
    """Whether a value is a Flax NNX module (or another NNX object with methods)."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Pytree)


def refuse(fn: Any) -> None:
    """Raise for what looks like a model and cannot be called as one."""
    kind = type(fn).__name__
    linen = sys.modules.get("flax.linen")
    if inspect.isclass(fn):
        raise CallError(
            f"give transform a model object or a function; got the class {fn.__name__} itself. "
            f"Make an object of it first: transform({fn.__name__}(...), rules)."
        )
    if isinstance(fn, tuple) and hasattr(fn, "init") and hasattr(fn, "apply"):
        raise CallError(
            f"give transform a function; got a Haiku {kind}, a pair of functions. "
            "Give its apply function: transform(model.apply, rules)(params, rng, x)."
        )
    if linen is not None and isinstance(fn, linen.Module) and getattr(fn, "scope", None) is None:
        raise CallError(
            f"give transform a function; got the Linen module {kind}, which holds no parameters. "
            "Give its apply function: transform(model.apply, rules)(variables, x)."
        )
    if not callable(fn):
        raise CallError(
            f"give transform a function, a model object that can be called, or a method of one "
            f"(transform(model.encode, rules)); got {kind}: {fn!r}"
        )
