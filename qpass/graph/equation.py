"""Einsum equations of contractions: written from dimension numbers, read from text, compared.

Letters have no meaning of their own; what counts is in which positions of which operand a letter
stands and whether the output has it. So the equation that a user gave to `jnp.einsum` fits the
`dot_general` that came of it, although einsum may have swapped the operands, transposed the output
and summed some dimensions away before the product.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_letters

from qpass.errors import RuleError

DotDimensionNumbers = tuple[
    tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]
]

# In an operand or output of an Equation the three dots are one symbol, a dimension like a letter.
ELLIPSIS = "."
_FORM = "write it as 'BTD,NDH->BTNH'"


@dataclass(frozen=True)
class Equation:
    """An einsum equation of two operands; `str` gives "ab,bc->ac".

    Each of `lhs`, `rhs`, `out` has one letter for each dimension; "..." is held as a single ".".
    """

    lhs: str
    rhs: str
    out: str

    def __str__(self) -> str:
        return f"{self.lhs},{self.rhs}->{self.out}".replace(ELLIPSIS, "...")

    def swapped(self) -> "Equation":
        """Return the same contraction with the operands in the other order."""
        return Equation(self.rhs, self.lhs, self.out)

    def contracted(self) -> str:
        """Return the letters that are summed over in the product, in the order of `lhs`."""
        return "".join(c for c in self.lhs if c in self.rhs and c not in self.out)


def dot_equation(lhs_ndim: int, rhs_ndim: int, dimension_numbers: DotDimensionNumbers) -> Equation:
    """Return the equation of a `dot_general` as `lax` defines it: out = batch, lhs free, rhs free.

    `dimension_numbers` is `((lhs_contract, rhs_contract), (lhs_batch, rhs_batch))`. Letters are
    given in alphabetical order to the dimensions of lhs, then to those that only rhs has, so that
    a matrix product is "ab,bc->ac" and equal contractions have equal equations.
    """
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = dimension_numbers
    lhs = [_letter(axis) for axis in range(lhs_ndim)]
    shared = dict(zip((*rhs_batch, *rhs_contract), (*lhs_batch, *lhs_contract), strict=True))
    fresh = (_letter(index) for index in range(lhs_ndim, lhs_ndim + rhs_ndim))
    rhs = [lhs[shared[axis]] if axis in shared else next(fresh) for axis in range(rhs_ndim)]
    batch = [lhs[axis] for axis in lhs_batch]
    lhs_free = _without(lhs, (*lhs_batch, *lhs_contract))
    rhs_free = _without(rhs, shared)
    return Equation("".join(lhs), "".join(rhs), "".join([*batch, *lhs_free, *rhs_free]))


def parse_terms(text: str) -> tuple[tuple[str, ...], str]:
    """Read an einsum equation of any number of operands: `(operands, output)`, "..." as ".".

    Spaces are ignored, also within a term. Without "->" the output is NumPy's: "..." if any operand
    has it, then the letters that stand exactly once, in alphabetical order.

    Raises:
        RuleError: the text is not an einsum equation; the error says where and why.
    """
    joined = "".join(text.split())
    if not joined:
        raise RuleError(f"einsum equation is empty; {_FORM}")
    if joined.count("->") > 1:
        raise RuleError(f"einsum equation {text!r} has more than one '->'; {_FORM}")
    inputs, arrow, output = joined.partition("->")
    operands = tuple(_read_term(term, text) for term in inputs.split(","))
    out = _read_term(output, text) if arrow else _implicit_output(operands)
    _check_output(out, operands, text)
    return operands, out


def parse_equation(text: str) -> Equation:
    """Read an einsum equation of two operands, such as "BTD, NDH -> BTNH" or "...k,kn->...n".

    Raises:
        RuleError: the text is no einsum equation, or has not exactly two operands.
    """
    operands, out = parse_terms(text)
    if len(operands) != 2:
        raise RuleError(
            f"einsum equation {text!r} has {len(operands)} operand(s), a contraction has 2; {_FORM}"
        )
    return _two(operands, out)


def matches(pattern: str | Equation, equation: Equation) -> bool:
    """Say whether `equation` is the contraction that `pattern` writes.

    Names of letters, the order of the operands and the order of the output do not matter. "..." in
    the pattern stands for any number of dimensions, also none, aligned at the right between the
    operands as NumPy does it. Letters of one operand that the output lacks, and repeated letters
    in one operand, are taken out first: einsum sums them away (or takes the diagonal) before the
    product, so that no `dot_general` has them. A size-1 dimension that einsum stretches against
    a larger one is dropped from the product too; sizes are not in an equation, so such a product
    does not match its text.
    """
    wanted = _product(parse_equation(pattern) if isinstance(pattern, str) else pattern)
    found = _product(equation)
    return any(_fits(wanted, order) for order in (found, found.swapped()))


def same_text(pattern: str, text: str) -> bool:
    """Say whether two einsum texts write the same contraction, with any number of operands.

    Two operands are compared as `matches` does. Other numbers of operands are equal up to the names
    of letters only, in the order given.

    Raises:
        RuleError: one of the texts is not an einsum equation.
    """
    (operands, out), (others, other_out) = parse_terms(pattern), parse_terms(text)
    if len(operands) == len(others) == 2:
        return matches(_two(operands, out), _two(others, other_out))
    return _renamed((*operands, out)) == _renamed((*others, other_out))


def _two(operands: tuple[str, ...], out: str) -> Equation:
    lhs, rhs = operands
    return Equation(lhs, rhs, out)


def _letter(index: int) -> str:
    """Return letter `index`: a-z, A-Z, then further letters of Unicode from U+0100 on."""
    return ascii_letters[index] if index < 52 else chr(0x100 + index - 52)


def _without(letters: Sequence[str], axes: Iterable[int]) -> list[str]:
    left_out = set(axes)
    return [letter for axis, letter in enumerate(letters) if axis not in left_out]


def _read_term(term: str, text: str) -> str:
    if "." in term.replace("...", ""):
        raise RuleError(
            f"einsum equation {text!r}: {term!r} has dots that are not '...'; write three of them"
        )
    short = term.replace("...", ELLIPSIS)
    if short.count(ELLIPSIS) > 1:
        raise RuleError(f"einsum equation {text!r}: {term!r} has '...' more than once")
    for char in short:
        if char != ELLIPSIS and not char.isalpha():
            raise RuleError(
                f"einsum equation {text!r}: {char!r} in {term!r} is not a letter; {_FORM}"
            )
    return short


def _implicit_output(operands: tuple[str, ...]) -> str:
    letters = "".join(operands)
    once = sorted(c for c in set(letters) - {ELLIPSIS} if letters.count(c) == 1)
    return (ELLIPSIS if ELLIPSIS in letters else "") + "".join(once)


def _check_output(out: str, operands: tuple[str, ...], text: str) -> None:
    known = "".join(operands)
    for char in out:
        shown = char.replace(ELLIPSIS, "...")
        if out.count(char) > 1:
            raise RuleError(f"einsum equation {text!r}: {shown!r} is twice in the output")
        if char not in known:
            raise RuleError(f"einsum equation {text!r}: {shown!r} is in the output only")


def _product(equation: Equation) -> Equation:
    """Return what is left for the product itself: no letters summed within one operand.

    Follows `jnp.einsum`, which keeps the last of a letter that is repeated in an operand.
    """
    lhs = _kept(equation.lhs, equation.rhs + equation.out)
    rhs = _kept(equation.rhs, equation.lhs + equation.out)
    return Equation(lhs, rhs, equation.out)


def _kept(term: str, elsewhere: str) -> str:
    return "".join(c for i, c in enumerate(term) if c in elsewhere and c not in term[i + 1 :])


def _fits(wanted: Equation, found: Equation) -> bool:
    """Compare with the operands in the order given."""
    if ELLIPSIS not in found.lhs + found.rhs:  # otherwise "..." is a symbol that only "..." fits
        expanded = _expanded(wanted, len(found.lhs), len(found.rhs))
        if expanded is None:
            return False
        wanted = expanded
    return _form(wanted) == _form(found)


def _expanded(wanted: Equation, lhs_ndim: int, rhs_ndim: int) -> Equation | None:
    """Write names for "..." so that the operands have these ranks; None where that cannot be."""
    lhs_extra, rhs_extra = _extra(wanted.lhs, lhs_ndim), _extra(wanted.rhs, rhs_ndim)
    if lhs_extra < 0 or rhs_extra < 0:
        return None
    # Dimensions that "..." has in one operand more, and that are summed, never reach the product.
    if ELLIPSIS in wanted.contracted() and lhs_extra != rhs_extra:
        return None
    # Of the private use area of Unicode, so that no letter of the equation is met.
    names = "".join(chr(0xE000 + axis) for axis in range(max(lhs_extra, rhs_extra)))
    return Equation(
        wanted.lhs.replace(ELLIPSIS, names[len(names) - lhs_extra :]),
        wanted.rhs.replace(ELLIPSIS, names[len(names) - rhs_extra :]),
        wanted.out.replace(ELLIPSIS, names),
    )


def _extra(term: str, ndim: int) -> int:
    """Return the number of dimensions that "..." stands for at this rank; negative: no fit."""
    if ELLIPSIS in term:
        return ndim - (len(term) - 1)
    return 0 if ndim == len(term) else -1


def _form(equation: Equation) -> tuple[object, ...]:
    lhs, rhs, out = _renamed((equation.lhs, equation.rhs, equation.out))
    return lhs, rhs, frozenset(out)


def _renamed(terms: tuple[str, ...]) -> tuple[tuple[object, ...], ...]:
    """Return the terms with letters numbered in the order of their first appearance."""
    numbers = {c: i for i, c in enumerate(dict.fromkeys("".join(terms)))} | {ELLIPSIS: ELLIPSIS}
    return tuple(tuple(numbers[c] for c in term) for term in terms)
