"""What products of all kinds have in common: two operands along K, each times its scales."""

from typing import Any, Literal


class Contraction:
    """What follows from the fields that `Product` and `RaggedProduct` share."""

    k: Any
    lhs: str
    rhs: str
    group: Any
    lhs_scale: Literal["none", "row", "group"]
    rhs_scale: Literal["row", "group"]

    @property
    def grouped(self) -> bool:
        """Whether an operand has more than one scale along K."""
        return "group" in (self.lhs_scale, self.rhs_scale)

    @property
    def groups(self) -> int:
        """Number of groups along K (1 where nothing is grouped)."""
        return -(-self.k // self.group) if self.grouped else 1

    @property
    def weight_only(self) -> bool:
        """Whether the left operand is float."""
        return self.lhs_scale == "none"

    @property
    def integer(self) -> bool:
        """Whether both operands are integer codes, so that products add up exactly in int32."""
        return "int" in self.lhs and "int" in self.rhs

    @property
    def symbolic(self) -> tuple[str, ...]:
        """Names of the sizes that are not plain numbers."""
        return tuple(
            d for d in ("batch", "m", "n", "k") if not isinstance(getattr(self, d, 0), int)
        )


def needs_numbers(product: Contraction) -> tuple[Any, str]:
    """The check for `first_reason` that a kernel makes whose grid is cut from sizes."""
    names = ", ".join(product.symbolic)
    return product.symbolic, f"{names} symbolic: the grid needs numbers"
