"""`package.module:name` on the command line: finding it, and reading what a factory returns."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from qpass import configs
from qpass.configs.files import SUFFIXES
from qpass.errors import QPassError
from qpass.suggest import did_you_mean

RETURNS = (
    "(fn, args), (fn, args, rules) or a dict of fn, args and, if wanted, rules, kwargs, params, "
    "batches"
)


class TargetError(QPassError, ValueError):
    """A name on the command line leads nowhere, or to something that cannot be planned."""


@dataclass(frozen=True)
class Target:
    """A function, an example call, and how to rewrite it.

    Attributes:
        fn: what `qpass.transform` takes.
        args: positional arguments of the example call; arrays or `jax.ShapeDtypeStruct`s.
        rules: first match wins; without any, a plan lists what there is to quantize.
        kwargs: keyword arguments of the example call.
        params: which argument holds the parameters, as `qpass.transform` takes it.
        batches: data for a search: tuples of what follows the parameters; without any, the example.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    rules: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    params: Any = 0
    batches: Sequence[Any] = ()


def load(name: str) -> Any:
    """Import `package.module:attribute`, modules of the current directory included.

    Raises:
        TargetError: the text has another form, or there is no such module or attribute.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise TargetError(f"Write package.module:name, got {name!r}.")
    module = found = _module(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(module) if not name.startswith("_")]
            hint = did_you_mean(part, sorted(names))
            raise TargetError(
                f"Module {module_name!r} has no {attribute!r}; {hint or 'it is empty'}."
            )
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the module that was asked for is the caller's mistake; one that *it* imports is not.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise TargetError(
            f"There is no module {name!r} in {here} or in this environment."
        ) from None


def load_target(name: str) -> Target:
    """Import a factory, call it, and read what it returns.

    Raises:
        TargetError: the factory is not to be found, is no function, or returns something else.
    """
    factory = load(name)
    if not callable(factory):
        raise TargetError(
            f"{name} must be a function that returns {RETURNS}; it is {factory!r:.60}."
        )
    return _read(name, factory())


def load_rules(name: str) -> Sequence[Any]:
    """Read a file of rules, import a sequence of them, or call the function that returns one.

    Raises:
        TargetError: it is not to be found, or is no sequence.
        RuleError: a file that holds something else than rules.
    """
    if Path(name).suffix in SUFFIXES:
        return configs.load_rules(name)
    found = load(name)
    rules = found() if callable(found) else found
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise TargetError(f"{name} must be a list of rules, or return one; got {rules!r:.60}.")
    return rules


def _read(name: str, returned: Any) -> Target:
    if isinstance(returned, Mapping):
        target = Target(**_known(name, returned))
    elif isinstance(returned, tuple) and len(returned) in (2, 3):
        target = Target(*returned)
    else:
        kind = type(returned).__name__
        raise TargetError(f"{name} must return {RETURNS}; it returned a value of type {kind}.")
    return _checked(name, target)


def _known(name: str, returned: Mapping[str, Any]) -> Mapping[str, Any]:
    names = {field.name for field in fields(Target)}
    unknown, missing = sorted(set(returned) - names), sorted({"fn", "args"} - set(returned))
    if unknown or missing:
        wrong = [f"without {key}" for key in missing] + [f"with unknown {key}" for key in unknown]
        raise TargetError(f"{name} must return {RETURNS}; it returned a dict {', '.join(wrong)}.")
    return returned


def _checked(name: str, target: Target) -> Target:
    if not callable(target.fn):
        kind = type(target.fn).__name__
        raise TargetError(f"{name} must return {RETURNS}; its fn is a {kind}, not a function.")
    if not isinstance(target.args, tuple | list):
        kind = type(target.args).__name__
        raise TargetError(f"{name} must return {RETURNS}; its args are a {kind}, not a tuple.")
    return target
