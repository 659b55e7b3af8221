"""How passes have several sites, or a site and what is around it, computed together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from qpass.graph.regions import Region, admit
from qpass.plan import Decision, Plan

ADAPTED = "one of its products has an adapter"


def with_regions(
    plan: Plan, proposed: Sequence[Region]
) -> tuple[Plan, tuple[tuple[Region, str], ...]]:
    """The plan with those of the proposed regions that are legal, and the others with the reason.

    A region that shares an equation with one of an earlier pass is refused, and one with a product
    that has an adapter: its term is added at the site.
    """
    own = {decision.site.key for decision in plan.decisions if decision.adapter is not None}
    refused = [(region, ADAPTED) for region in proposed if not own.isdisjoint(region.keys)]
    proposed = [region for region in proposed if own.isdisjoint(region.keys)]
    regions = plan.regions
    for path in dict.fromkeys(region.path for region in proposed):
        jaxpr = plan.body(path)
        kept = [region for region in regions if region.path == path]
        here = [region for region in proposed if region.path == path]
        taken, others = admit(jaxpr, kept, here)
        regions = (*regions, *taken)
        refused += others
    return replace(plan, regions=regions), tuple(refused)


def noted(plan: Plan, regions: Iterable[Region], note: Callable[[Region, Decision], str]) -> Plan:
    """The plan with a note at every site of these regions."""
    by_key = {key: region for region in regions for key in region.keys}

    def told(decision: Decision) -> Decision:
        region = by_key.get(decision.site.key)
        if region is None:
            return decision
        return replace(decision, notes=(*decision.notes, note(region, decision)))

    return plan.update(told)
