"""How many scales a tensor gets.

Each granularity says along which axes of an operand more than one element shares a scale. The axes
come from the contraction: `contract` are those that it reduces, innermost last, `free` the others.
`group` is how many elements of the contracted axis share a scale; None where they are not cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from qpass.errors import QuantizeError, RuleError

type Axes = tuple[int, ...]


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""

    group = None

    def shared(self, shape: Axes, contract: Axes, free: Axes) -> Mapping[int, int]:
        """All axes."""
        return dict(enumerate(shape))

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index of every axis that the contraction does not reduce.

    With `axes` given, one for each index of these axes of the operand alone: `PerChannel((2,))` for
    an activation `[batch, token, head, feature]` is per head. For an activation, per channel is per
    token.

    Raises:
        RuleError: `axes` are not distinct integers.
    """

    axes: Axes | None = None
    group = None

    def __post_init__(self) -> None:
        axes = self.axes
        if axes is not None and not (axes and _are_ints(axes) and len(set(axes)) == len(axes)):
            raise RuleError(
                f"Give per_channel() distinct axes of the operand, as ints; got {axes}."
            )

    def shared(self, shape: Axes, contract: Axes, free: Axes) -> Mapping[int, int]:
        """The contracted axes, or all but those that are named."""
        own = free if self.axes is None else self.named(shape)
        return {axis: n for axis, n in enumerate(shape) if axis not in own}

    def named(self, shape: Axes) -> Axes:
        """The axes that are named, counted from 0.

        Raises:
            QuantizeError: an axis that the shape does not have.
        """
        return _axes_of(self.axes or (), shape)

    def __str__(self) -> str:
        return "" if self.axes is None else f"axis{','.join(map(str, self.axes))}"


@dataclass(frozen=True)
class PerGroup:
    """Per channel, and the innermost contracted axis is cut in groups of `size` elements.

    `size` below 1 is one over the number of groups: `Fraction(1, 4)` cuts every axis in four. The
    last group is shorter where groups do not divide the axis.

    Raises:
        RuleError: `size` is neither a positive integer nor one over one.
    """

    size: int | Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _group_size(self.size))

    @property
    def group(self) -> int | Fraction:
        """Elements of the contracted axis that share a scale."""
        return self.size

    def length(self, n: int) -> int:
        """How many elements of an axis of n share a scale."""
        return max(1, -(-n // self.size.denominator) if self.size < 1 else min(int(self.size), n))

    def shared(self, shape: Axes, contract: Axes, free: Axes) -> Mapping[int, int]:
        """The innermost contracted axis, in groups."""
        return {axis: self.length(shape[axis]) for axis in contract[-1:]}

    def __str__(self) -> str:
        return f"g{self.size}"


@dataclass(frozen=True)
class PerBlock:
    """One scale for a block: `rows` of the innermost free axis by `columns` of the contracted one.

    The last blocks are smaller where the sizes do not divide the axes.

    Raises:
        RuleError: a size is not a positive integer.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if not _are_ints((self.rows, self.columns)) or min(self.rows, self.columns) < 1:
            raise RuleError(
                "Give block sizes that are ints of 1 or more; "
                f"got {self.rows!r} x {self.columns!r}."
            )

    @property
    def group(self) -> int:
        """Elements of the contracted axis that share a scale."""
        return self.columns

    def shared(self, shape: Axes, contract: Axes, free: Axes) -> Mapping[int, int]:
        """The innermost axis of either kind, in blocks."""
        sizes = [(axis, self.rows) for axis in free[-1:]]
        sizes += [(axis, self.columns) for axis in contract[-1:]]
        return {axis: max(1, min(size, shape[axis])) for axis, size in sizes}

    def __str__(self) -> str:
        return f"b{self.rows}x{self.columns}"


@dataclass(frozen=True)
class PerEntry:
    """One scale for each index, but along the axes named for so many neighbours.

    For tensors that are written entry by entry, as caches are: what is written together shares.

    Attributes:
        sizes: pairs of axis, counted from the end, and how many of its elements share.
    """

    sizes: tuple[tuple[int, int], ...]
    group = None

    def shared(self, shape: Axes, contract: Axes, free: Axes) -> Mapping[int, int]:
        """The axes named."""
        return {axis % len(shape): min(size, shape[axis]) for axis, size in self.sizes}

    def __str__(self) -> str:
        return "entry"


type Granularity = PerTensor | PerChannel | PerGroup | PerBlock | PerEntry


def block_sizes(shape: Axes, granularity: Granularity, contract: Axes, separate: Axes = ()) -> Axes:
    """How many neighbours share a scale along each axis: 1 (none) up to `shape[d]` (all).

    The axes come from the dimension numbers of the contraction, never from a name.

    Args:
        shape: the shape of the tensor.
        granularity: says which axes share.
        contract: the axes that the contraction reduces, innermost last.
        separate: axes that always have a scale per index, for example that of stacked layers.

    Returns:
        one block size for each axis.

    Raises:
        QuantizeError: an axis that the shape does not have.
    """
    contract, separate = _axes_of(contract, shape), _axes_of(separate, shape)
    free = tuple(d for d in range(len(shape)) if d not in contract and d not in separate)
    shared = granularity.shared(shape, contract, free)
    return tuple(1 if d in separate else shared.get(d, 1) for d in range(len(shape)))


def _group_size(size: object) -> int | Fraction:
    if _are_ints((size,)) and size >= 1:  # type: ignore[operator]
        return size  # type: ignore[return-value]
    if isinstance(size, float | Fraction) and 0 < size < 1:
        part = Fraction(size).limit_denominator(2**20)
        if part.numerator == 1:
            return part
    raise RuleError(
        "Give a group size that is an int of 1 or more, or one over the number of groups such as "
        f"1/4; got {size!r}."
    )


def _are_ints(values: tuple) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in values)


def _axes_of(axes: Axes, shape: Axes) -> Axes:
    if bad := [a for a in axes if not -len(shape) <= a < len(shape)]:
        raise QuantizeError(f"Give axes of an array of shape {shape}; got {bad[0]}.")
    return tuple(a % len(shape) for a in axes)
