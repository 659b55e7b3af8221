"""One line of a plan: what a contraction is, and what was decided about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A contraction of the program with its decision: a scheme, or the reason why it stays float.

    Attributes:
        id: stable name of the site, as `layers/mlp/up/dot_general.0`.
        op: primitive, as `dot_general`.
        equation: canonical einsum equation, as `BTD,DF->BTF`; of a convolution its axes and sizes.
        role: `forward`, `dlhs`, `drhs` or what else the site says it is.
        lhs: type of the left operand, as `f32[1,512,576]`.
        rhs: type of the right operand.
        out: type of the result.
        weight: path of the parameter leaf that is multiplied, "" when there is none.
        scope: name stack of the equation.
        source: line that wrote it, as `decoder.py:12`.
        rule: number of the rule that matched, None when none did.
        rule_text: that rule as the user wrote it.
        scheme: as `int8 x int8`; "" when the site stays float.
        kernel: name of the kernel; "" when the site stays float.
        refused: (kernel, reason) of each kernel that comes before the one chosen.
        bytes_before: bytes of the weight leaf as it was, 0 when there is none.
        bytes_after: bytes of the leaf as it is stored for this plan.
        count: how often the site runs in one call: the product of the scan lengths around it.
        reason: why the site stays float; "" when it is quantized.
        notes: what else is worth knowing, as where a QTensor had to be dequantized.
        slow: how much slower than float it may be on this platform, and why; "" where it should not
            be, or nobody knows.
        forward: id of the site that a backward product differentiates, or that a rematerialized
            backward pass runs again here; "" for others.
        operands_from: of a site left float, where each operand comes from, as
            `rhs: add at model.py:12 computes a new value from params/head and params/lora`.
    """

    id: str
    op: str
    equation: str
    role: str
    lhs: str
    rhs: str
    out: str
    weight: str = ""
    scope: str = ""
    source: str = ""
    rule: int | None = None
    rule_text: str = ""
    scheme: str = ""
    kernel: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    bytes_before: int = 0
    bytes_after: int = 0
    count: int = 1
    reason: str = ""
    notes: tuple[str, ...] = ()
    slow: str = ""
    forward: str = ""
    operands_from: tuple[str, ...] = ()

    @property
    def told(self) -> tuple[str, ...]:
        """All that is worth knowing: notes, and whether it may be slow."""
        return (*self.notes, *filter(None, (self.slow,)))

    @property
    def unsaid(self) -> tuple[str, ...]:
        """Where operands come from, as far as no note says it already."""
        return tuple(text for text in self.operands_from if text not in self.notes)

    @property
    def relation(self) -> str:
        """What this product has to do with its forward product, in words; "" without one."""
        if not self.forward:
            return ""
        backward = self.role in ("dlhs", "drhs")
        return f"differentiates {self.forward}" if backward else f"runs {self.forward} again"

    @property
    def operands(self) -> str:
        """Types of the operands, as `f32[1,512,576] × f32[576,1536]`."""
        return " × ".join(filter(None, (self.lhs, self.rhs)))

    @property
    def other_scope(self) -> str:
        """The scope, where the id does not already begin with it."""
        return "" if self.id.startswith(self.scope) else self.scope

    @property
    def quantized(self) -> bool:
        """Whether the site runs on quantized numbers."""
        return bool(self.scheme)
