"""Schemes: which quantizer each operand of a contraction gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qpass.errors import RuleError
from qpass.numerics.granularity import Granularity, PerChannel, PerGroup, PerTensor
from qpass.numerics.qtypes import QTYPES, QType
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.quantizer_text import read_quantizer

__all__ = [
    "Backward",
    "Granularity",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Quantizer",
    "Scheme",
    "as_accumulator",
    "as_quantizer",
]


RESIDUALS = ("original", "forward")
ACCUMULATORS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Backward:
    """How one product of a backward pass is quantized: the gradient by what the forward pass read.

    Attributes:
        grad: quantizer of the gradient that comes in, as a name, a type or a `Quantizer`, which it
            is kept as; None: that of the rule.
        operand: of the other operand, the weight in ``dlhs`` and the activation in ``drhs``; None:
            that of the forward product, and where it is float there, that of the gradient.
        residuals: where the codes of the other operand come from. "original": from its float value,
            along the axes that this product contracts (the codes of the forward product where
            these are the same). "forward": always those of the forward product; scales along axes
            that this product contracts are multiplied into the gradient before that is quantized.
        hadamard: both operands are transformed along what this product contracts before they are
            quantized, each 16 numbers by a signed Hadamard matrix (`qpass.numerics.hadamard`), so
            that outliers are spread. Without quantization the product would be the same.
        accumulate: dtype of the sum of products, as of `Scheme`; None: that of the rule.

    Raises:
        RuleError: a quantizer that is none, other residuals, codes of the forward product, which
            are none of transformed values, or a dtype that no sum has.
        UnknownTypeError: a numeric type that does not exist.
    """

    grad: str | QType | Quantizer | None = None
    operand: str | QType | Quantizer | None = None
    residuals: str = "original"
    hadamard: bool = False
    accumulate: Any = None

    def __post_init__(self) -> None:
        for field in ("grad", "operand"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, as_quantizer(value))
        if self.residuals not in RESIDUALS:
            raise RuleError(
                f"Give residuals='original' or 'forward' to Backward; got {self.residuals!r}."
            )
        if self.residuals == "forward" and self.operand is not None:
            raise RuleError(
                "Drop operand= from Backward: with residuals='forward' the codes of the forward "
                "product serve, so that its quantizer holds."
            )
        self._check_hadamard()
        object.__setattr__(self, "accumulate", as_accumulator(self.accumulate))

    def _check_hadamard(self) -> None:
        if not isinstance(self.hadamard, bool):
            raise RuleError(f"Give hadamard=True or False to Backward; got {self.hadamard!r}.")
        if self.hadamard and self.residuals == "forward":
            raise RuleError(
                "Drop hadamard= or residuals='forward' from Backward: codes of the forward product "
                "are none of transformed values."
            )

    @property
    def quantizers(self) -> tuple[Quantizer | None, Quantizer | None]:
        """Those of the gradient and of the other operand."""
        return self.grad, self.operand  # type: ignore[return-value]

    def or_else(self, grad: Quantizer | None, operand: Quantizer | None) -> Backward:
        """The same with these where it names none; the operand has the gradient's as the last."""
        grad = self.quantizers[0] or grad
        if self.residuals == "forward" and operand is not None:
            return replace(self, grad=grad)
        return replace(self, grad=grad, operand=self.operand or operand or grad)

    def __str__(self) -> str:
        named = " x ".join(str(q) for q in (self.operand, self.grad) if q)
        named = f"operand {named}" if self.operand and not self.grad else named
        kept = "" if self.residuals == "original" else "with the codes of the forward product"
        mixed = "hadamard" if self.hadamard else ""
        return " ".join(filter(None, (named, kept, mixed, _sums(self.accumulate))))


@dataclass(frozen=True)
class Scheme:
    """The quantizers of a contraction; `None` leaves that operand, or that product, in float.

    ``grad`` is of the gradient that comes in. ``dlhs`` and ``drhs`` are the two backward products,
    by which the gradients of the activation and of the weight are computed. ``accumulate`` is the
    dtype in which kernels hand over the sum of products, times its scales, rounded once; None: that
    of the result. Inside of kernels sums are int32 of integer codes, and else float32.
    """

    weight: Quantizer | None = None
    act: Quantizer | None = None
    grad: Quantizer | None = None
    dlhs: Backward | None = None
    drhs: Backward | None = None
    accumulate: str | None = None

    @property
    def is_forward_only(self) -> bool:
        """Whether both backward products stay float."""
        return self.dlhs is None and self.drhs is None

    def __str__(self) -> str:
        grad = f", grad {self.grad}" if self.grad and self.is_forward_only else ""
        sums = f", {_sums(self.accumulate)}" if self.accumulate else ""
        return _forward(self.weight, self.act) + grad + _backward(self) + sums


def _backward(scheme: Scheme) -> str:
    """Both backward products in one word where only their gradient is new."""
    pair = ((scheme.dlhs, scheme.weight), (scheme.drhs, scheme.act))
    sums = scheme.accumulate
    known = [p.grad for p, other in pair if p and p == Backward(p.grad, other, accumulate=sums)]
    if len(known) == 2 and known[0] == known[1]:
        return f", grad {known[0]}"
    names = {"dlhs": scheme.dlhs, "drhs": scheme.drhs}
    return "".join(f", {name} {product}" for name, product in names.items() if product)


def _forward(weight: Quantizer | None, act: Quantizer | None) -> str:
    if weight and act:
        return f"{weight} x {act}"
    if weight:
        return f"{weight} weight-only"
    return f"{act} act-only" if act else "float"


def _sums(accumulate: str | None) -> str:
    return f"sums in {accumulate}" if accumulate else ""


def as_accumulator(what: Any) -> str | None:
    """Name of the dtype of a sum of products; None stays None.

    Raises:
        RuleError: it is none of `ACCUMULATORS`.
    """
    name = getattr(what, "__name__", None) or getattr(what, "name", what)
    if name is None or name in ACCUMULATORS:
        return name
    raise RuleError(
        f"Give accumulate= as {', '.join(ACCUMULATORS[:-1])} or {ACCUMULATORS[-1]}; got {what!r}. "
        "Sums of integer codes are int32 inside of kernels in any case."
    )


def as_quantizer(what: str | QType | Quantizer, qtypes: tuple[QType, ...] = QTYPES) -> Quantizer:
    """The quantizer meant by a user: `"int8"`, a type, or a quantizer, which returns as it is.

    A bare name or type means per channel, of a block format its blocks. Every printed form is read,
    as `"int4 g32 mse"` or `"int8 asym qwix"`; see `qpass.numerics.quantizer_text`.

    Raises:
        UnknownTypeError: a name that no type has.
        RuleError: a word after the name that means nothing, contradicts another or cannot be asked
            of the type, or a value of another kind.
    """
    if isinstance(what, Quantizer):
        return what
    if isinstance(what, QType):
        return what.as_quantizer()
    if not isinstance(what, str):
        raise RuleError(
            f"Give a quantizer as a name such as 'int8', a type such as qpass.int8, or "
            f"qpass.int4.grouped(128); got {what!r}."
        )
    return read_quantizer(what, qtypes)
