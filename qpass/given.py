"""What a transformed function is given beside its arguments, and how it gets to the sites.

`Transformed.with_ranges` and the like give values that the function's own signature has no place
for. They enter the rewritten program as inputs, so that other values need no other compilation,
and are fed to the sites that use them (`qpass.graph.feeds`).

A site is fed a dict with what there is for it:

* ``"bounds"``: for each of its operands with a static quantizer, ``"act"`` or ``"weight"``, the
  range ``(lo, hi)``, float32 scalars.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax

from qpass.graph.dataflow import Key
from qpass.graph.feeds import Feeds, iterations, nest
from qpass.plan import Decision, Plan


@partial(jax.tree_util.register_dataclass, data_fields=["ranges"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Given:
    """Values beside the arguments.

    Attributes:
        ranges: ``(lo, hi)`` by the name of the operand in captured statistics, from `ranges`.
    """

    ranges: Mapping[str, Any] = field(default_factory=dict)


def feeds(plan: Plan, given: Given) -> Feeds:
    """What each site is fed; inside the trace of the rewritten program."""
    del given
    fed: dict[Key, dict[str, Any]] = {}
    return nest(fed)


def iterations_of(plan: Plan, decision: Decision) -> tuple[int, ...]:
    """Lengths of the scans around a site: the leading axes of what it is fed."""
    path, _ = decision.site.key
    return iterations(plan.program.jaxpr, plan.dataflow.derivatives, path)
