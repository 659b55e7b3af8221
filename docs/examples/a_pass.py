"""A pass of your own: leave small products in float."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

import qpass
from qpass.passes import PASSES


@dataclass(frozen=True)
class KeepSmall:
    """Keep products float whose weight has fewer than ``elements`` elements."""

    elements: int

    def __call__(self, plan: qpass.Plan) -> qpass.Plan:
        """The plan with the small sites float, each with the reason."""
        return plan.update(self._decide)

    def _decide(self, decision: qpass.Decision) -> qpass.Decision:
        shape = decision.site.rhs_shape if decision.site.weight == 1 else decision.site.lhs_shape
        size = 1
        for n in shape:
            size *= n
        if decision.action is None or size >= self.elements:
            return decision
        return replace(decision, action=None, reason=f"{size} weights, fewer than {self.elements}")


def mlp(params, x):
    """Two layers; ``x [M, 64]``."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


params = {"up": jnp.ones((64, 128)), "down": jnp.ones((128, 4))}
x = jnp.ones((2, 64))

match, refuse, *rest = PASSES
q = qpass.transform(
    mlp, [qpass.Rule(weight="int8", act="int8")], passes=(match, refuse, KeepSmall(1000), *rest)
)
plan = q.plan(params, x)

assert plan["up/dot_general.0"].action is not None
assert plan["down/dot_general.0"].reason == "512 weights, fewer than 1000"
assert not isinstance(q.quantize(params, x)["down"], qpass.QTensor)
