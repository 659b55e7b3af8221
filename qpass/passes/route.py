"""Route: products that choose among later ones stay float, unless a rule means just them.

A small error in the scores of a router sends a row to another expert. Which products choose follows
from the dataflow (`qpass.graph.choices`). A rule that decides no other products names them: it is
obeyed.
"""

from dataclasses import replace

from qpass.graph.choices import choosers
from qpass.plan import Decision, Plan


def route(plan: Plan) -> Plan:
    """Keep what chooses in float, with the reason."""
    picked = choosers(plan.dataflow)
    choosing = {d.site.id: picked[d.site.key] for d in plan.decisions if d.site.key in picked}
    choosing |= {  # what a rematerialized backward pass runs again is as the first time
        d.site.id: choosing[d.site.forward]
        for d in plan.decisions
        if d.site.role == "forward" and d.site.forward in choosing
    }
    general = {
        d.rule for d in plan.decisions if d.site.role == "forward" and d.site.id not in choosing
    }

    def keep(decision: Decision) -> Decision:
        pick = choosing.get(decision.site.id)
        is_named = decision.rule not in general
        if pick is None or decision.action is None or is_named or decision.site.role != "forward":
            return decision
        reason = f"router: {pick} picks from its result. A rule that fits only routers takes it"
        return replace(decision, action=None, reason=reason)

    return plan.update(keep)
