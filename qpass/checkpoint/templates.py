"""Which parameters of a checkpoint become which leaf: templates of names with places in braces."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter

from qpass.errors import CheckpointError
from qpass.suggest import did_you_mean, shortened

WEIGHT = ".weight"


@dataclass(frozen=True)
class To:
    """Where a parameter of a checkpoint goes.

    Attributes:
        path: of the leaf, a template: `"layers/{i}/q/kernel"`. A place of the name that the path
            does not have counts the layers of a stacked leaf, which are its first axis; of several
            such places the first one in the name is the first axis.
        axes: how the axes move, as `"out in -> in out"` or `"(n h) d -> d n h"`; "" where they
            stay. For stacked leaves, of one layer.
    """

    path: str
    axes: str = ""


@dataclass(frozen=True)
class Part:
    """A parameter of a checkpoint in its place in a leaf.

    Attributes:
        name: of the parameter.
        index: its place along the stacked axes; empty where the leaf is not stacked.
        axes: see `To`.
    """

    name: str
    index: tuple[int, ...]
    axes: str


def assign(names: Iterable[str], templates: Mapping[str, str | To]) -> dict[str, list[Part]]:
    """The parts of each leaf, by its path.

    Args:
        names: of the parameters.
        templates: by template of a name, which may leave out `.weight` at its end.

    Raises:
        CheckpointError: a template that fits no name, or whose path has places that it has not.
    """
    names, found = list(names), {}
    taken: set[str] = set()
    for template, target in templates.items():
        to = target if isinstance(target, To) else To(target)
        parts = _fitting(template, to, [name for name in names if name not in taken])
        if not parts:
            raise CheckpointError(
                f"Take {template!r} out, or mend it: it fits no parameter of the checkpoint that "
                f"another one has not taken: {did_you_mean(template, names, cutoff=0.3)}"
            )
        for path, part in parts:
            found.setdefault(path, []).append(part)
            taken.add(part.name)
    return found


def stack_shape(path: str, parts: list[Part]) -> tuple[int, ...]:
    """Sizes of the stacked axes of a leaf; empty where it is a single parameter.

    Raises:
        CheckpointError: two parameters for one place, or a place without one.
    """
    places: dict[tuple[int, ...], str] = {}
    for part in parts:
        if (other := places.setdefault(part.index, part.name)) != part.name:
            raise CheckpointError(
                f"Send {other} and {part.name} to places of their own: both are to be {path}"
                f"{list(part.index) or ''}."
            )
    sizes = tuple(max(column) + 1 for column in zip(*places, strict=True))
    if len(places) != math.prod(sizes):
        raise CheckpointError(
            f"Give every layer of {path}: there are {len(places)} of the {math.prod(sizes)} that "
            f"the numbers in {shortened(places.values(), 3)} ask for, from 0 on."
        )
    return sizes


def _fitting(template: str, to: To, names: list[str]) -> list[tuple[str, Part]]:
    pattern, places = pattern_of(template)
    inside = places_of(to.path)
    if missing := [place for place in inside if place not in places]:
        raise CheckpointError(
            f"Name {missing[0]!r} in {template!r} too: the path {to.path!r} takes it from there."
        )
    stacked = [place for place in places if place not in inside]
    found = []
    for name in names:
        if match := pattern.fullmatch(name) or pattern.fullmatch(name.removesuffix(WEIGHT)):
            values = match.groupdict()
            index = tuple(_number(values[place], place, name) for place in stacked)
            own = {place: values[place] for place in inside}
            found.append((to.path.format_map(own), Part(name, index, to.axes)))
    return found


def pattern_of(template: str) -> tuple[re.Pattern, list[str]]:
    """What fits a template, and its places in order."""
    text, places = "", []
    for literal, place, _, _ in _parsed(template):
        text += re.escape(literal)
        if place is None:
            continue
        text += f"(?P={place})" if place in places else rf"(?P<{place}>[^.]+)"
        places += [] if place in places else [place]
    return re.compile(text), places


def places_of(template: str) -> list[str]:
    """Names in the braces of a template, in order."""
    return [place for _, place, _, _ in _parsed(template) if place is not None]


def _parsed(template: str) -> list:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise CheckpointError(f"Mend the template {template!r}: {error}.") from error
    if bad := [
        place for _, place, _, _ in parsed if place is not None and not place.isidentifier()
    ]:
        raise CheckpointError(
            f"Name the places of {template!r} in braces, as '{{i}}'; {bad[0]!r} is no name."
        )
    return parsed


def _number(text: str, place: str, name: str) -> int:
    if not text.isdecimal():
        raise CheckpointError(
            f"Name {place!r} in the path too: it counts layers that are stacked, and in {name} it "
            f"is {text!r}."
        )
    return int(text)
