"""Which axes of a leaf the product that reads it contracts, and which are free."""

from collections.abc import Sequence
from dataclasses import dataclass

from qpass.graph.dimensions import dimensions, expert_axis, free_axes
from qpass.graph.provenance import Origin
from qpass.graph.sites import Site
from qpass.plan import Decision, Plan
from qpass.rules import Rule

MIXED = "a reshape before it makes one axis of what is summed over and of what is not"


@dataclass(frozen=True)
class WeightAxes:
    """Axes of the leaf that is the weight of a plain product.

    Attributes:
        contract: those that are summed over.
        free: those that only the result has beside them.
        batch: those that both operands and the result have, and the one that counts experts.
    """

    contract: frozenset[int]
    free: frozenset[int]
    batch: frozenset[int]

    @property
    def fault(self) -> str:
        """Why they cannot be told apart; "" where they can."""
        mixed = self.contract & self.free or self.batch & (self.contract | self.free)
        return MIXED if mixed else ""


def weight_operand(site: Site) -> int:
    """Which operand of a forward product is the weight."""
    assert site.weight is not None
    return site.weight


def weight_dims(site: Site) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Contracted, free and batch dimensions of the operand that is the weight."""
    side, expert = weight_operand(site), expert_axis(site.eqn)
    contract, batch = (part[side] for part in dimensions(site.eqn))
    experts = () if expert is None else (expert,)
    return contract, free_axes(site.eqn, side), (*batch, *experts)


def weight_axes(site: Site) -> WeightAxes:
    """The axes of the leaf that these are."""
    origin = site.flows[weight_operand(site)]
    assert isinstance(origin, Origin)

    def leaf(dims: Sequence[int]) -> frozenset[int]:
        return frozenset().union(*(origin.axes[d] for d in dims))

    return WeightAxes(*map(leaf, weight_dims(site)))


def why_not_plain(site: Site) -> str:
    """Why nothing can be beside the weight of this product; "" for a plain one."""
    return "" if site.op == "dot_general" else f"it is a {site.op}, no plain product"


def forward_rule(plan: Plan, decision: Decision) -> Rule | None:
    """The rule of a forward product, which may ask for something beside its weight.

    None of other products: a backward one has the rule of its forward product for gradients alone.
    """
    if decision.rule is None or decision.site.role != "forward":
        return None
    return plan.rules[decision.rule]
