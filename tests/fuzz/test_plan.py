"""Every contraction is in the plan exactly once, decided or with a reason, and so it is done."""

import os
from collections import Counter
from typing import Any

import jax
import pytest
from hypothesis import assume, given, settings

import qpass
from tests.fuzz import programs as ast
from tests.fuzz.checks import transformed
from tests.fuzz.evaluate import arguments, function, smooth
from tests.fuzz.strategies import programs
from tests.jaxprs import equations

pytestmark = pytest.mark.filterwarnings("ignore:.*rule 0")
many = settings(settings.get_profile(f"fuzz {os.environ.get('FUZZ_PROFILE', 'few')}"))

INT8 = qpass.Rule(path="**", weight="int8", act="int8")
FLOAT = ("dot_general", "ragged_dot_general", "conv_general_dilated")
QUANTIZED = "quantized"
PRIMITIVES = {name: name for name in FLOAT} | dict.fromkeys(
    ("quantized_matmul", "ragged_matmul"), QUANTIZED
)
OF_RULES = {"fwd", "bwd", "jvp"}  # programs of custom derivative rules, which no jaxpr shows


def contractions(jaxpr: Any) -> Counter:
    """How many of each are in a jaxpr and below, once for each place that calls it."""
    names = (eqn.primitive.name for eqn in equations(jaxpr))
    return Counter(PRIMITIVES[name] for name in names if name in PRIMITIVES)


def is_of_rule(site: Any) -> bool:
    path, _ = site.key
    return any(name in OF_RULES for _, name in path)


@many
@given(programs())
def test_every_contraction_is_planned_once(program):
    fn, args = function(program, smooth), arguments(program)
    plan = transformed(fn, INT8).plan(*args)
    sites = [d.site for d in plan.decisions]
    assert len({site.key for site in sites}) == len({site.id for site in sites}) == len(sites)
    shown = Counter(site.op for site in sites if not is_of_rule(site))
    assert shown == contractions(jax.make_jaxpr(fn)(*args))
    for decision in plan.decisions:
        assert (decision.action is None) == bool(decision.reason)
    assert len(plan.rows) == len(sites)


@many
@given(programs())
def test_every_decision_is_carried_out(program):
    """At each site that is decided, and at no other: bodies may be shared by several calls."""
    # A mapped while loop asks again in its body, which examples are done.
    assume(not (ast.has(program, ast.Loop, asks=True) and ast.has(program, ast.Vmap)))
    fn, args = function(program, smooth), arguments(program)
    q = transformed(fn, INT8)
    decided = [d.site.op for d in q.plan(*args).decisions if d.action and not is_of_rule(d.site)]
    wanted = contractions(jax.make_jaxpr(fn)(*args)) - Counter(decided)
    wanted[QUANTIZED] = len(decided)
    for params in (args[0], q.quantize(*args)):
        assert contractions(jax.make_jaxpr(q)(params, args[1])) == wanted
