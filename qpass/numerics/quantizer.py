"""Quantizer: what a tensor is quantized to, and how its scales are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from qpass.errors import RuleError
from qpass.numerics.delayed import Delayed, delayed
from qpass.numerics.dialects import QPASS, Dialect, as_dialect
from qpass.numerics.granularity import Granularity, PerBlock, PerChannel, PerGroup, PerTensor
from qpass.numerics.range_text import read_range
from qpass.numerics.ranges import AbsMax, Range
from qpass.numerics.rounding import NEAREST, Rounding, Stochastic
from qpass.numerics.scale_formats import E8M0, PowerRounding, ScaleFormat
from qpass.suggest import listing

if TYPE_CHECKING:
    from qpass.numerics.qtypes import QType


class Choices:
    """What can be said of a numeric type or of a quantizer: each method gives a `Quantizer`."""

    def as_quantizer(self) -> Quantizer:
        """This quantizer; of a numeric type, the one that its bare name means."""
        raise NotImplementedError

    def grouped(self, size: int | float | Fraction) -> Quantizer:
        """A scale for every `size` elements of the innermost contracted axis.

        Below 1, `size` is one over the number of groups: `grouped(1 / 4)` makes four.

        Raises:
            RuleError: `size` is neither a positive integer nor one over one.
        """
        return self._with(granularity=PerGroup(size))  # type: ignore[arg-type]

    def per_channel(self, *axes: int) -> Quantizer:
        """A scale for each index of the axes that are not contracted, or of the axes given.

        Raises:
            RuleError: the axes are not distinct integers.
        """
        return self._with(granularity=PerChannel(axes or None))

    def per_tensor(self) -> Quantizer:
        """One scale for the whole tensor."""
        return self._with(granularity=PerTensor())

    def per_block(self, rows: int, columns: int) -> Quantizer:
        """A scale for `rows` of the innermost free axis by `columns` of the contracted one.

        Raises:
            RuleError: a size is not a positive integer.
        """
        return self._with(granularity=PerBlock(rows, columns))

    def asymmetric(self) -> Quantizer:
        """With a zero point, so that the range need not be centred at zero.

        Raises:
            RuleError: the type is not an integer type.
        """
        return self._with(symmetric=False)

    def ranged(self, how: str | Range) -> Quantizer:
        """With another way of finding the range that codes cover; see `qpass.numerics.ranges`.

        As a value or a text, such as `"rms,7"`. The text `"minmax"` also asks for a zero point.

        Raises:
            RuleError: a text that is no range, or a zero point for a type that has none.
        """
        if isinstance(how, Range):
            return self._with(range=how)
        found = read_range(how)
        ranged = self._with(range=found.range)
        return ranged.asymmetric() if found.asymmetric else ranged

    def stochastic(self, bits: int | None = None) -> Quantizer:
        """Rounded up or down at random, right on average; `bits` random bits for an element.

        Raises:
            RuleError: not a number of bits.
        """
        return self._with(rounding=Stochastic(bits))

    def nearest(self) -> Quantizer:
        """Rounded to the nearest value."""
        return self._with(rounding=NEAREST)

    def masked(self) -> Quantizer:
        """Without gradient where a value lies outside of the range that codes cover."""
        return self._with(derivative="masked")

    def learned(self) -> Quantizer:
        """With a range that is trained (LSQ): it has a gradient, and what it clips has none."""
        return self._with(derivative="lsq")

    def static(self) -> Quantizer:
        """With a range that was captured before, instead of that of the values at hand."""
        return self._with(is_static=True)

    def delayed(
        self, length: int = Delayed.length, margin: int = 0, most_recent: bool = False
    ) -> Quantizer:
        """With the range of earlier steps, which is state: see `qpass.numerics.delayed`.

        Raises:
            RuleError: a length or margin that is none, or a quantizer with a zero point.
        """
        return self._with(range=Delayed(length, margin, most_recent))

    def scaled(self, how: str | PowerRounding) -> Quantizer:
        """With scales of an MX type rounded to powers of two in another way, such as `"floor"`.

        Raises:
            RuleError: no such way, or a type whose scales are no powers of two.
        """
        if how not in (ways := [way.value for way in PowerRounding]):
            raise RuleError(f"Name a rounding of scales; {how!r} is none: {listing(ways)}.")
        return self._with(scale_rounding=PowerRounding(how))

    def in_dialect(self, dialect: str | Dialect) -> Quantizer:
        """In a dialect of the formulas, given by name or as a value.

        Raises:
            UnknownDialectError: no dialect has that name.
        """
        return self._with(dialect=as_dialect(dialect))

    def _with(self, **changes: object) -> Quantizer:
        return replace(self.as_quantizer(), **changes)  # type: ignore[arg-type]


PER_CHANNEL = PerChannel()
ABSMAX = AbsMax()


@dataclass(frozen=True)
class Quantizer(Choices):
    """What a tensor is quantized to: a numeric type, and everything about its scales.

    Attributes:
        qtype: the type of the codes.
        granularity: which elements share a scale.
        dialect: the last bits of the formulas; None: that of the transformation, `qpass` where it
            names none.
        symmetric: whether zero is code zero; else every scale has a zero point.
        range: how the range that codes cover is found.
        rounding: how values between two codes are rounded.
        derivative: "straight_through", "masked" or "lsq"; None: that of the type.
        is_static: whether the range is handed in: from a capture, or from a state where it is a
            delayed one.
        scale_rounding: how scales that are powers of two are rounded to them; None: as the type and
            the dialect say.

    Raises:
        RuleError: an asymmetric quantizer of a type that is no integer type, a rounding of scales
            that are no powers of two, or something that the dialect does not have.
    """

    qtype: QType
    granularity: Granularity = PER_CHANNEL
    dialect: Dialect | None = None
    symmetric: bool = True
    range: Range = ABSMAX
    rounding: Rounding = NEAREST
    derivative: str | None = None
    is_static: bool = False
    scale_rounding: PowerRounding | None = None

    def __post_init__(self) -> None:
        if not self.symmetric:
            self.qtype.check_asymmetric()
        if self.scale_rounding:
            self.qtype.check_powers()
        if self.delayed_range is not None:
            self._check_delayed()
            object.__setattr__(self, "is_static", True)
        if self.is_learned and (not self.symmetric or self.delayed_range):
            raise RuleError(
                f"Learn a range with one bound to both sides and without earlier steps; got {self}."
            )
        self.spoken.check(self.qtype, self.symmetric)

    def as_quantizer(self) -> Quantizer:
        """Itself."""
        return self

    @property
    def spoken(self) -> Dialect:
        """The dialect; `qpass` where none is named."""
        return self.dialect or QPASS

    def scale_format(self, dtype: np.dtype) -> ScaleFormat:
        """What scales of an array of that dtype are stored as."""
        if self.scale_rounding:
            return E8M0(self.scale_rounding)
        return self.spoken.formats(self.qtype, self.spoken.precision(dtype))

    @property
    def delayed_range(self) -> Delayed | None:
        """How the range follows from earlier steps; None where it does not."""
        return delayed(self.range)

    def _check_delayed(self) -> None:
        if not self.symmetric or self.granularity.group:
            raise RuleError(
                f"Give delayed scaling a quantizer without zero points, groups and blocks: one "
                f"scale serves all of a tensor; got {self}."
            )

    @property
    def is_masked(self) -> bool:
        """Whether values outside of the range have no gradient."""
        return self.is_learned or (self.derivative or self.qtype.derivative) == "masked"

    @property
    def is_learned(self) -> bool:
        """Whether its range has a gradient."""
        return self.derivative == "lsq"

    def __str__(self) -> str:
        return " ".join(filter(None, (self.qtype.name, *self._words())))

    def _words(self) -> tuple[str, ...]:
        plain = self.qtype.as_quantizer()
        return (
            self.scale_rounding or "",
            "" if self.granularity == plain.granularity else _channels(self.granularity),
            "" if self.symmetric else "asym",
            "" if self.range == ABSMAX else str(self.range),
            str(self.rounding),
            "" if self.derivative in (None, plain.qtype.derivative) else self.derivative,
            "static" if self.is_static and not self.delayed_range else "",
            "" if self.dialect in (None, QPASS) else str(self.dialect),
        )


def _channels(granularity: Granularity) -> str:
    """What is written of a granularity where a type means another one by itself."""
    return str(granularity) or "channel"
