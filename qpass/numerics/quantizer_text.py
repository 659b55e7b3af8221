"""Quantizers as text: `int8 asym`, `int4 g32 mse`, `fp8_e5m2 sr`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from qpass.errors import RuleError
from qpass.numerics.dialects import DIALECTS, as_dialect
from qpass.numerics.granularity import PerBlock, PerChannel, PerGroup, PerTensor
from qpass.numerics.qtypes import QTYPES, QType, find_qtype
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.range_text import WORDS as RANGES
from qpass.numerics.range_text import read_range
from qpass.numerics.rounding import Stochastic
from qpass.numerics.scale_formats import PowerRounding
from qpass.suggest import did_you_mean

type Changes = Mapping[str, Any]

_GROUP = re.compile(r"g(?P<size>\d+|1/\d+)")
_BLOCK = re.compile(r"b(?P<rows>\d+)x(?P<columns>\d+)")
_AXES = re.compile(r"axis(?P<axes>-?\d+(,-?\d+)*)")
_STOCHASTIC = re.compile(r"sr(?P<bits>\d*)")
_POWERS = tuple(way.value for way in PowerRounding)


@dataclass(frozen=True)
class Part:
    """One word of a text: what it is about, and what it changes (None: it is no such word)."""

    about: str
    examples: tuple[str, ...]
    read: Callable[[str], Changes | None]


def read_quantizer(text: str, qtypes: tuple[QType, ...] = QTYPES) -> Quantizer:
    """Read the text form of a quantizer, which is what `str` makes of it.

    A type, then any of these, in this order: `floor`, `ceil`, `even` or `rceil` for the powers of
    two that scale an MX type, the granularity (`channel`, `tensor`, `axis0,2`, `g128`, `g1/4`,
    `b128x128`), `asym`, a range (see `qpass.numerics.range_text`), `sr` or `sr8`, `masked`,
    `straight_through` or `lsq`, `static`, a dialect.

    Raises:
        UnknownTypeError: the first word is no type.
        RuleError: a word is none of these, stands in another place, is said twice, or cannot be
            asked of that type.
    """
    name, *words = text.split(" ")
    quantizer = find_qtype(name, qtypes).as_quantizer()
    found = [_find(word, text) for word in words]
    _check_order(text, name, words, [place for place, _ in found])
    changes: Changes = reduce(or_, (dict(change) for _, change in found), {})
    return replace(quantizer, **changes)


def _scale_rounding(word: str) -> Changes | None:
    return {"scale_rounding": PowerRounding(word)} if word in _POWERS else None


def _granularity(word: str) -> Changes | None:
    if match := _GROUP.fullmatch(word):
        size = Fraction(match["size"]) if "/" in word else int(match["size"])
        return {"granularity": PerGroup(size)}
    if match := _BLOCK.fullmatch(word):
        return {"granularity": PerBlock(int(match["rows"]), int(match["columns"]))}
    if match := _AXES.fullmatch(word):
        return {"granularity": PerChannel(tuple(map(int, match["axes"].split(","))))}
    named = {"tensor": PerTensor(), "channel": PerChannel()}
    return {"granularity": named[word]} if word in named else None


def _range(word: str) -> Changes | None:
    if word.split(",")[0] not in RANGES:
        return None
    found = read_range(word)
    return {"range": found.range} | ({"symmetric": False} if found.asymmetric else {})


def _rounding(word: str) -> Changes | None:
    match = _STOCHASTIC.fullmatch(word)
    return match and {"rounding": Stochastic(int(match["bits"]) if match["bits"] else None)}


def _symmetry(word: str) -> Changes | None:
    return {"symmetric": False} if word == "asym" else None


def _derivative(word: str) -> Changes | None:
    return {"derivative": word} if word in ("masked", "straight_through", "lsq") else None


def _static(word: str) -> Changes | None:
    return {"is_static": True} if word == "static" else None


def _dialect(word: str) -> Changes | None:
    known = word in {dialect.name for dialect in DIALECTS}
    return {"dialect": as_dialect(word)} if known else None


_PARTS = (
    Part("rounding of scales", _POWERS, _scale_rounding),
    Part("granularity", ("channel", "tensor", "axis0", "g128", "b128x128"), _granularity),
    Part("zero point", ("asym",), _symmetry),
    Part("range", RANGES, _range),
    Part("rounding", ("sr", "sr8"), _rounding),
    Part("derivative", ("masked", "straight_through", "lsq"), _derivative),
    Part("static range", ("static",), _static),
    Part("dialect", tuple(dialect.name for dialect in DIALECTS), _dialect),
)
_HOW = (
    "Write a quantizer as a type and what differs from its default, such as 'int8', 'int4 g32', "
    "'int8 tensor asym', 'int4 g32 mse sr8 qwix'"
)


def _find(word: str, text: str) -> tuple[int, Changes]:
    """The place of a word among the parts, and what it changes."""
    for place, part in enumerate(_PARTS):
        if (changes := part.read(word)) is not None:
            return place, changes
    known = [example for part in _PARTS for example in part.examples]
    meant = did_you_mean(word.split(",")[0], known) if word else "there is a blank too many."
    raise RuleError(f"{_HOW}; got {text!r}: {word!r} means nothing: {meant}")


def _check_order(text: str, name: str, words: list[str], places: list[int]) -> None:
    ordered = sorted(zip(places, words, strict=True), key=lambda pair: pair[0])
    for (place, one), (after, other) in pairwise(ordered):
        if place == after:
            about = _PARTS[place].about
            raise RuleError(f"{_HOW}; got {text!r}: {one!r} and {other!r} both say the {about}.")
    if places != sorted(places):
        right = " ".join([name, *(word for _, word in ordered)])
        raise RuleError(f"{_HOW}; got {text!r}: its words go in the order {right!r}.")
