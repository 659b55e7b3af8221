"""Ranges as text: `absmax,0.9`, `rms,7`, `fixed,-4,4`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qpass.errors import RuleError
from qpass.numerics.delayed import Delayed
from qpass.numerics.range_base import Range
from qpass.numerics.range_hqq import Hqq
from qpass.numerics.range_search import Mse, Snr, WeightedMse
from qpass.numerics.ranges import AbsMax, AbsMean, Fixed, Percentile, PowerOfTwo, Rms
from qpass.suggest import did_you_mean


@dataclass(frozen=True)
class Method:
    """One range method as text: its word, how many numbers may follow, and what it makes.

    `asymmetric`: the word also says that a quantizer has a zero point.
    """

    word: str
    usage: str
    make: Callable[..., Range]
    least: int = 0
    most: float = 0
    asymmetric: bool = False


def _mse(kind: type[Mse]) -> Callable[..., Range]:
    """The constructor for numbers from a text, of which the first counts something."""

    def make(steps: float = kind.steps, least: float = kind.least) -> Range:
        return kind(_counted(steps), least)

    return make


def _hqq(steps: float = Hqq.steps) -> Range:
    return Hqq(_counted(steps))


def _counted(number: float) -> int:
    """A number from a text that counts something; as it is where it cannot."""
    return int(number) if float(number).is_integer() else number  # type: ignore[return-value]


def _fixed(first: float, second: float | None = None) -> Fixed:
    """One bound; two; or, of two numbers above 0, a scale and the greatest code that it is for."""
    if second is not None and min(first, second) > 0:
        return Fixed(first * second)
    return Fixed(first, second)


def _most_recent(length: float = Delayed.length, margin: float = 0) -> Delayed:
    return Delayed(length, margin, most_recent=True)  # type: ignore[arg-type]


def _snr(*factors: float) -> Range:
    return Snr(factors) if factors else Snr()


METHODS: tuple[Method, ...] = (
    Method("absmax", "'absmax' or 'absmax,0.9'", AbsMax, 0, 1),
    Method("minmax", "'minmax' or 'minmax,0.9'", AbsMax, 0, 1, asymmetric=True),
    Method("rms", "'rms,7'", Rms, 1, 1),
    Method("absmean", "'absmean,2'", AbsMean, 1, 1),
    Method("percentile", "'percentile,99.9'", Percentile, 1, 1),
    Method("fixed", "'fixed,4', 'fixed,-1,4' or 'fixed,0.5,8'", _fixed, 1, 2),
    Method("mse", "'mse', 'mse,40' or 'mse,40,0.2'", _mse(Mse), 0, 2),
    Method("wmse", "'wmse', 'wmse,40' or 'wmse,40,0.2'", _mse(WeightedMse), 0, 2),
    Method("hqq", "'hqq' or 'hqq,40'", _hqq, 0, 1),
    Method("snr", "'snr' or 'snr,1,0.8,0.6'", _snr, 0, float("inf")),
    Method("delayed", "'delayed', 'delayed,16' or 'delayed,16,1'", Delayed, 0, 2),
    Method(
        "most_recent", "'most_recent', 'most_recent,16' or 'most_recent,16,1'", _most_recent, 0, 2
    ),
)
WORDS: tuple[str, ...] = (*(method.word for method in METHODS), "pow2")


@dataclass(frozen=True)
class RangeText:
    """What a text says: the range, and whether it asks for a zero point ("minmax" does)."""

    range: Range
    asymmetric: bool = False


def as_range(what: str | Range) -> Range:
    """The range meant by a user: a text such as `"rms,7"`, or a range, which returns as it is.

    Raises:
        RuleError: the text is no range, or it is a value of another kind.
    """
    return what if isinstance(what, Range) else read_range(what).range


def read_range(text: str) -> RangeText:
    """Read the text form of a range; letters may be capital, blanks may follow commas.

    The forms are those of Qwix 0.1.8 (`absmax`, `absmax,0.9`, `minmax`, `minmax,0.9`, `rms,7`,
    `fixed,4`, `fixed,-1,4`), `fixed,0.5,8` for a scale of 0.5 and a greatest code of 8, which is
    `fixed,4`, `absmean,2`, `percentile,99.9`, `mse`, `wmse`, `hqq`, `snr`, `delayed` and
    `most_recent`, both of which may be followed by the length of the history and the margin, and
    `pow2`, alone or before another, as in `pow2,rms,7`.

    Raises:
        RuleError: no method has that name, it takes more or fewer numbers, or one is out of its
            limits.
    """
    if not isinstance(text, str):
        raise RuleError(
            f"Give a range as a text such as 'absmax,0.9', or as a range such as "
            f"qpass.Percentile(99.9); got {text!r}."
        )
    word, *given = (part.strip() for part in text.lower().split(","))
    if word == "pow2":
        inner = read_range(",".join(given)) if given else RangeText(AbsMax())
        return RangeText(PowerOfTwo(inner.range), inner.asymmetric)
    return _read(word, given, text)


def _read(word: str, given: list[str], text: str) -> RangeText:
    method = next((method for method in METHODS if method.word == word), None)
    if method is None:
        raise RuleError(f"Name a range; {text!r} is none: {did_you_mean(word, WORDS)}")
    numbers = [_number(part, text, method) for part in given]
    if not method.least <= len(numbers) <= method.most:
        raise RuleError(
            f"Write the range {word!r} as {method.usage}; got {text!r} with {len(numbers)} numbers."
        )
    return RangeText(method.make(*numbers), method.asymmetric)


def _number(part: str, text: str, method: Method) -> float:
    try:
        return float(part)
    except ValueError:
        raise RuleError(
            f"Write the range {method.word!r} as {method.usage}; got {text!r}: "
            f"{part!r} is no number."
        ) from None
