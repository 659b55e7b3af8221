"""Rules in files: JSON, TOML and YAML, by the end of the name."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from qpass.configs.data import rules_from_data, rules_to_data
from qpass.errors import QPassError, RuleError
from qpass.rules import Rule
from qpass.suggest import alternatives


def load_rules(path: str | PathLike) -> tuple[Rule, ...]:
    """The rules in a file. Nothing in it is executed.

    Args:
        path: a ``.json`` or ``.toml`` file, or a ``.yaml`` one where PyYAML is installed: a list of
            rules, or one called ``rules`` (in TOML, tables ``[[rules]]``).

    Raises:
        RuleError: the file is not there, is of another kind, or holds something else than rules.
    """
    file = Path(path)
    read = _by_suffix(file, _READERS)
    try:
        found = read(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RuleError(f"Give a file of rules that can be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise RuleError(f"Mend {file}: {error}") from error
    try:
        return rules_from_data(found)
    except QPassError as error:
        raise type(error)(f"{error} In {file}.") from None


def save_rules(path: str | PathLike, rules: Rule | Sequence[Rule]) -> None:
    """Write rules into a ``.json`` or ``.yaml`` file that `load_rules` reads, for people to edit.

    Raises:
        RuleError: a rule that is no data (see `rules_to_data`), or a name with another end.
    """
    file = Path(path)
    file.write_text(_by_suffix(file, _WRITERS)(rules_to_data(rules)), encoding="utf-8")


def _by_suffix(file: Path, table: Mapping[str, Callable]) -> Callable[[Any], Any]:
    if file.suffix not in table:
        raise RuleError(f"Name a file that ends in {alternatives(table)}; got {str(file)!r}.")
    return table[file.suffix]


def _yaml() -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise RuleError("Install PyYAML, or use JSON: rules in YAML need it.") from error
    return yaml


def _from_yaml(text: str) -> Any:
    yaml = _yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _to_json(data: list[dict[str, Any]]) -> str:
    """A rule a line."""
    lines = ",\n".join("  " + json.dumps(rule) for rule in data)
    return f"[\n{lines}\n]\n" if data else "[]\n"


_READERS = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
}
SUFFIXES = tuple(_READERS)
"""Ends of names that rules can be read from."""
_WRITERS = {
    ".json": _to_json,
    ".yaml": lambda data: _yaml().safe_dump(data, sort_keys=False),
    ".yml": lambda data: _yaml().safe_dump(data, sort_keys=False),
}
