"""Rules to and from plain data: dicts, lists, texts, numbers, as JSON, TOML and YAML have them.

A rule is a dict of the fields that it gives, under their own names; quantizers are texts, such as
``"int4 g32 asym"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import jax.numpy as jnp

from qpass.errors import QPassError, RuleError
from qpass.numerics import Quantizer
from qpass.numerics.schemes import Backward, as_quantizer
from qpass.numerics.sparsity import NM
from qpass.ops.lora import LoRA
from qpass.rules import Rule
from qpass.suggest import did_you_mean

NAMES = tuple(field.name for field in fields(Rule))


def rules_to_data(rules: Rule | Sequence[Rule]) -> list[dict[str, Any]]:
    """Plain data that `rules_from_data` makes the same rules of.

    Raises:
        RuleError: a rule has what is no data: a function (``where=``), an initializer of one's own,
            or a quantizer whose text does not say all of it.
    """
    return [_plain(rule) for rule in ((rules,) if isinstance(rules, Rule) else rules)]


def _plain(rule: Rule) -> dict[str, Any]:
    given = {name: getattr(rule, name) for name in NAMES}
    kept = {
        name: value for name, value in given.items() if value is not None and value is not False
    }
    try:
        return {name: _value(name, value) for name, value in kept.items()}
    except RuleError as error:
        raise RuleError(f"{error} The rule: {rule.describe()}") from None


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Quantizer):
        return _text(name, value)
    if isinstance(value, Backward):
        return _backward(name, value)
    if isinstance(value, LoRA):
        return _lora(value)
    if isinstance(value, NM):
        return _given(value, NM(value.n, value.m), ("n", "m"))
    if callable(value):
        raise RuleError(f"Write {name}= in Python, or leave it out: a function is no data.")
    return list(value) if isinstance(value, tuple) else value


def _text(name: str, quantizer: Quantizer) -> str:
    """Its text, which leaves qpass's own dialect out; with that where it was asked for."""
    text = str(quantizer)
    dialect = quantizer.dialect.name if quantizer.dialect else ""
    for whole in (text, f"{text} {dialect}"):
        if _reads(whole) == quantizer:
            return whole
    raise RuleError(f"Write {name}= in Python: the text {text!r} does not say all of it.")


def _reads(text: str) -> Quantizer | None:
    try:
        return as_quantizer(text)
    except QPassError:
        return None


def _backward(name: str, product: Backward) -> Any:
    found: dict[str, Any] = {
        f: _text(f"{name} {f}", q)
        for f in ("grad", "operand")
        if isinstance(q := getattr(product, f), Quantizer)
    }
    return found | _given(product, Backward(product.grad, product.operand), ())


def _lora(lora: LoRA) -> dict[str, Any]:
    default = LoRA()
    if lora.init_a is not default.init_a or lora.init_b is not default.init_b:
        raise RuleError("Write lora= in Python: initializers of one's own are no data.")
    found = _given(lora, default, ("rank", "alpha"))
    return found | ({} if lora.dtype is None else {"dtype": jnp.dtype(lora.dtype).name})


def _given(value: Any, default: Any, always: Sequence[str]) -> dict[str, Any]:
    """The fields that differ from those of a default value, and those that are always given."""
    names = [field.name for field in fields(value)]
    pairs = {name: (getattr(value, name), getattr(default, name)) for name in names}
    return {n: own for n, (own, other) in pairs.items() if n in always or own != other}


def rules_from_data(data: Any) -> tuple[Rule, ...]:
    """The rules that `rules_to_data` wrote, or that a person did.

    Args:
        data: a list of dicts; or a dict whose ``"rules"`` is one, as a TOML file needs it.

    Raises:
        RuleError: what is there is no rule; the message says which one and which field.
    """
    found = data.get("rules") if isinstance(data, Mapping) else data
    if isinstance(data, Mapping) and set(data) - {"rules"}:
        raise RuleError(
            f"Put rules under 'rules'; beside it there is {sorted(set(data) - {'rules'})}."
        )
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise RuleError(f"Give a list of rules; got {found!r:.60}.")
    return tuple(_rule(number, entry) for number, entry in enumerate(found))


def _rule(number: int, entry: Any) -> Rule:
    if not isinstance(entry, Mapping):
        raise RuleError(f"Give rule {number} as names and values; got {entry!r:.60}.")
    unknown = [name for name in entry if name not in NAMES or name == "where"]
    if unknown:
        raise RuleError(
            f"Leave {unknown[0]!r} out of rule {number}, or mend it: "
            f"{did_you_mean(str(unknown[0]), [n for n in NAMES if n != 'where'])}"
        )
    try:
        return Rule(**{name: _read(name, value) for name, value in entry.items()})
    except QPassError as error:
        raise type(error)(f"{error} (rule {number})") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise RuleError(f"Mend rule {number}, {dict(entry)!r:.200}: {error}.") from error


_READ: Mapping[str, type[LoRA] | type[NM] | type[Backward]] = {
    "lora": LoRA,
    "sparsity": NM,
    "dlhs": Backward,
    "drhs": Backward,
}


def _read(name: str, value: Any) -> Any:
    if name in _READ and isinstance(value, Mapping):
        own = [field.name for field in fields(_READ[name]) if not field.name.startswith("init")]
        if unknown := [key for key in value if key not in own]:
            raise RuleError(f"Leave {unknown[0]!r} out of {name}, which has {', '.join(own)}.")
        return _READ[name](**value)
    if isinstance(value, Mapping):
        raise RuleError(f"Give {name} a text, a number or a list; got {dict(value)!r:.60}.")
    return value
