"""Regions: which equations may be computed at once, and that the rewriter does so."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from qpass.graph._jax import Literal
from qpass.graph.rebuild import REBUILD
from qpass.graph.regions import CYCLE, EFFECTS, TAKEN, Region, admit, read_by, schedule
from qpass.graph.rewrite import Frame, Rewriter
from qpass.graph.text import to_text
from tests.fuzz.identity import Itself
from tests.rewriting.oracle import close, random

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2), "c": random(8, 8, seed=4)}
X = random(4, 8, seed=3)


def dots(jaxpr):
    return [k for k, eqn in enumerate(jaxpr.eqns) if eqn.primitive.name == "dot_general"]


def two_of_one(w, x):
    """Two products of one value, with more before the second."""
    first = jnp.tanh(x @ w["a"])
    scaled = w["b"] * 2
    return first, x @ scaled


def chain(w, x):
    """The second product depends on the first."""
    return jnp.tanh(x @ w["a"]) @ w["b"]


def traced(fn, *args):
    return jax.make_jaxpr(fn)(*args)


def names(jaxpr, order):
    """Primitives in the order of a schedule; those of a region in one string."""
    name = lambda k: jaxpr.eqns[k].primitive.name  # noqa: E731
    return [
        "+".join(map(name, step.equations)) if isinstance(step, Region) else name(step)
        for step in order
    ]


def test_a_region_waits_for_the_operands_of_all_its_equations():
    jaxpr = traced(two_of_one, W, X)
    assert names(jaxpr, schedule(jaxpr, [])) == ["dot_general", "tanh", "mul", "dot_general"]
    order = schedule(jaxpr, [Region((), tuple(dots(jaxpr)), "both")])
    assert names(jaxpr, order) == ["mul", "dot_general+dot_general", "tanh"]


def test_what_comes_from_outside():
    jaxpr = traced(chain, W, X)
    assert read_by(jaxpr, (0, 1)) == (jaxpr.invars[3], jaxpr.invars[0])


def test_equations_with_another_between_them_are_refused():
    jaxpr = traced(chain, W, X)
    region = Region((), tuple(dots(jaxpr)), "both")
    assert schedule(jaxpr, [region]) is None
    assert admit(jaxpr, [], [region]) == ((), ((region, CYCLE),))


def test_two_regions_that_wait_for_each_other():
    def crossed(w, x):
        a, b = x @ w["a"], x @ w["b"]
        return jnp.tanh(a) @ w["c"], jnp.tanh(b) @ w["c"]

    jaxpr = traced(crossed, W, X)
    a, b, c, d = dots(jaxpr)
    straight = Region((), (a, b), 1), Region((), (c, d), 2)
    assert admit(jaxpr, [], straight) == (straight, ())
    # a before c, b before d: a with d and b with c is a circle, though neither is alone.
    first, second = Region((), (a, d), 1), Region((), (b, c), 2)
    assert admit(jaxpr, [], [first]) == ((first,), ())
    assert admit(jaxpr, [], [first, second]) == ((first,), ((second, CYCLE),))
    assert admit(jaxpr, [first], [second]) == ((), ((second, CYCLE),))


def test_an_equation_is_in_one_region_only():
    jaxpr = traced(lambda w, x: (x @ w["a"], x @ w["b"], x @ w["c"]), W, X)
    first, second = Region((), (0, 1), 1), Region((), (1, 2), 2)
    assert admit(jaxpr, [], [first, second]) == ((first,), ((second, TAKEN),))
    assert admit(jaxpr, [first], [second]) == ((), ((second, TAKEN),))


def test_effects_keep_their_order():
    def talking(w, x):
        jax.debug.print("one", ordered=True)
        a = x @ w["a"]
        jax.debug.print("two {}", a.sum(), ordered=True)
        b = x @ w["b"]
        jax.debug.print("three", ordered=True)
        return a, b

    jaxpr = traced(talking, W, X)
    order = schedule(jaxpr, [Region((), tuple(dots(jaxpr)), "both")])
    prints = [k for k in order if isinstance(k, int) and jaxpr.eqns[k].effects]
    assert prints == sorted(prints)
    assert len(prints) == 3
    region = Region((), (prints[0], dots(jaxpr)[0]), "with a print")
    assert admit(jaxpr, [], [region]) == ((), ((region, EFFECTS),))


class Summing(Itself):
    """A region of products of one left operand: one product with their weights side by side."""

    def region(self, action: Any, members: Any, inputs: Any) -> Any:
        if action == "declined":
            return None
        read = lambda v: v.val if isinstance(v, Literal) else inputs[v]  # noqa: E731
        lhs = read(members[0].eqn.invars[0])
        weights = [read(m.eqn.invars[1]) for m in members]
        parts = jnp.split(lhs @ jnp.concatenate(weights, 1), len(weights), axis=1)
        return {m.eqn.outvars[0]: part for m, part in zip(members, parts, strict=True)}


def rewritten(fn: Callable, *args: Any, action: str = "sum", tap: Any = None) -> Callable:
    """``fn`` with all products of a jaxpr in one region."""
    plan = qpass.transform(fn, []).plan(*args)
    decisions = {d.site.key: "itself" for d in plan.decisions}
    by_path: dict = {}
    for path, index in decisions:
        by_path.setdefault(path, []).append(index)
    regions = [Region(path, tuple(found), action) for path, found in by_path.items()]
    rules = plan.dataflow.derivatives

    def run(*args):
        rewriter = Rewriter(decisions, rules, Summing(), REBUILD, regions, tap=tap)
        flat, _ = rewriter.run(plan.program.jaxpr, jax.tree.leaves(args), Frame())
        return flat

    return run


def count(fn, *args):
    return to_text(traced(fn, *args)).count("dot_general")


def in_scan(w, x):
    step = lambda c, _: (sum(two_of_one(w, c)), None)  # noqa: E731
    return lax.scan(step, x, length=3)[0]


@pytest.mark.parametrize(
    "fn",
    [
        two_of_one,
        in_scan,
        jax.jit(two_of_one),
        jax.checkpoint(two_of_one),
        lambda w, x: lax.cond(x[0, 0] > 0, two_of_one, lambda w, x: (x, x @ w["c"]), w, x),
    ],
    ids=["plain", "scan", "jit", "remat", "cond"],
)
def test_regions_are_evaluated_at_once_wherever_they_are(fn):
    run = rewritten(fn, W, X)
    assert count(run, W, X) < count(fn, W, X)
    close(run(W, X), jax.tree.leaves(fn(W, X)))


@pytest.mark.parametrize("transform", [jax.grad, jax.hessian], ids=["grad", "hessian"])
def test_regions_are_differentiated_and_mapped(transform):
    loss = lambda fn: lambda w, x: sum(jnp.sum(y**2) for y in jax.tree.leaves(fn(w, x)))  # noqa: E731
    xs = jnp.stack([X, -X])
    run = rewritten(two_of_one, W, X)
    found = jax.vmap(transform(loss(run), argnums=1), (None, 0))(W, xs)
    close(found, jax.vmap(transform(loss(two_of_one), argnums=1), (None, 0))(W, xs))


def test_a_declined_region_is_evaluated_one_by_one():
    run = rewritten(two_of_one, W, X, action="declined")
    assert count(run, W, X) == 2
    close(run(W, X), list(two_of_one(W, X)))


def test_products_that_are_looked_at_stay_apart():
    seen = []
    run = rewritten(two_of_one, W, X, tap=lambda key, *_: seen.append(key) or {})
    run(W, X)
    assert len(seen) == 2


def test_a_policy_decides_on_each_product():
    policy = jax.checkpoint_policies.dots_saveable
    fn = jax.checkpoint(two_of_one, policy=policy)
    assert count(rewritten(fn, W, X), W, X) == 2
