"""Where operands come from, in words: what broke a trail, at which line, and what it read."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from qpass.graph.reads import LIMIT, reads
from qpass.graph.sites import find_sites
from qpass.graph.trail import Trails
from tests.graph.helpers import dataflow_of, shape

P = {name: shape(8, 8) for name in "abcdef"}
X = shape(4, 8)


def trails_of(fn, params=P):
    """The trails of a program, and the nodes of the operands of its last product."""
    program, flow = dataflow_of(fn, params, X)
    return Trails(program, flow), find_sites(program, flow)[-1].nodes


def described(fn):
    trails, nodes = trails_of(fn)
    return [trails.describe(node) for node in nodes]


def added(p, x):
    w = p["a"] + p["b"] @ p["c"]
    return x @ w.T


def test_the_operation_and_what_it_read():
    x, w = described(added)
    line = inspect.getsourcelines(added)[1] + 1
    assert x == "x, an input that is no parameter"
    assert w.startswith(f"add at test_trail.py:{line}")
    assert w.endswith("computes a new value from a and b, c")


@jax.custom_jvp
def unchanged(a):
    return a


unchanged.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
CONSTANT = jnp.ones((8, 8))
EXPECTED = {
    "one parameter": (lambda p, x: x @ jnp.sin(p["a"]), ["sin at {here}", "a new value from a"]),
    "an activation": (lambda p, x: x @ (jnp.sin(x).T @ x), ["from an activation and x"]),
    "constants": (lambda p, x: x @ jnp.sin(jnp.eye(8)), ["sin at {here}", "from constants"]),
    "a number": (lambda p, x: x @ jnp.ones((8, 8)), ["a number in the program"]),
    "a constant": (lambda p, x: x @ CONSTANT, ["a constant that the function closes over"]),
    "many": (
        lambda p, x: x @ (p["a"] + p["b"] + p["c"] + p["d"] + p["e"] + p["f"]),
        ["from a, b, c, d, … and f"],
    ),
    "a long list": (
        lambda p, x: x @ jnp.concatenate([p[k] for k in "abcdefabc"])[:8],
        ["from a and b and c and d and e and f"],
    ),
    "many operands": (
        lambda p, x: x @ jnp.concatenate([jnp.sin(p[k]) for k in "abcdef"] + [p["a"]])[:8],
        ["from a and b and c and d and e and f and …"],
    ),
    "twice the same": (lambda p, x: x @ (p["a"] * p["a"]), ["a new value from a"]),
    "a branch": (
        lambda p, x: x @ lax.cond(x[0, 0] > 0, lambda a, b: a, lambda a, b: b, p["a"], p["b"]),
        ["cond at {here}", "result of a nested program", "from a, b"],
    ),
    "a function with a derivative of its own": (
        lambda p, x: x @ jax.nn.relu(p["a"]),
        ["max at {here}", "from a"],
    ),
    "one that changes nothing": (
        lambda p, x: x @ unchanged(p["a"]),
        ["custom_jvp_call at {here}", "result of a nested program", "from a"],
    ),
    "a look-up": (
        lambda p, x: x @ p["a"][jnp.arange(8)],
        ["gather at {here}", "embedding lookup", "from a"],
    ),
    "under jit": (lambda p, x: jax.jit(lambda a, x: x @ (a + 1))(p["a"], x), ["add at", "from a"]),
}


@pytest.mark.parametrize(("fn", "parts"), EXPECTED.values(), ids=EXPECTED)
def test_what_broke_the_trail(fn, parts):
    text = described(fn)[1]
    for part in parts:
        assert part.format(here="test_trail.py:") in text


def test_the_line_is_that_of_the_operation_not_of_the_product():
    def fn(p, x):
        w = p["a"] * 2
        return x @ w

    line = inspect.getsourcelines(fn)[1] + 1
    assert f"mul at test_trail.py:{line}" in described(fn)[1]


def test_a_loop_that_changes_a_weight():
    def swap(p, x):
        def step(pair, _):
            return pair[::-1], x @ pair[0]

        return lax.scan(step, (p["a"], p["b"]), None, length=3)[1]

    trails, (_, w) = trails_of(swap)
    assert "carried and updated by the loop" in trails.describe(w)
    assert trails.describe(w).endswith("from a, b")  # b arrives by the other carry's next round
    assert trails.derived(w)


def test_an_activation_that_a_loop_carries():
    def loop(p, x):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), jnp.sin(x), jnp.stack([p["a"]] * 2))

    x, _ = described(loop)
    assert x.startswith("scan at test_trail.py:")
    assert x.endswith("(carried and updated by the loop) computes a new value from an activation")


def test_values_of_derivative_rules():
    call = jax.custom_vjp(lambda x, w: x @ w)
    call.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    x, g = described(lambda p, x: call(x, p["a"]))
    assert x == "x, an input that is no parameter"
    assert g == "a cotangent of a custom_vjp rule"


def test_derived_is_said_of_what_parameters_alone_make():
    def kinds(fn):
        trails, nodes = trails_of(fn)
        return [trails.derived(node) for node in nodes]

    assert kinds(added) == [False, True]
    assert kinds(lambda p, x: x @ p["a"].T) == [False, False]
    assert kinds(lambda p, x: x @ (p["a"] + x[0])) == [False, False]
    assert kinds(lambda p, x: x @ jnp.sin(jnp.eye(8))) == [False, False]


def scanned(p, x):
    def layer(x, w):
        return x @ w.astype(jnp.bfloat16).T.astype(x.dtype)[:, :8], None

    return lax.scan(layer, x, p["layers"])[0]


def test_every_step_from_the_leaf_to_the_operand():
    trails, (_, w) = trails_of(scanned, {"layers": shape(3, 9, 8)})
    trail = trails.trail(w)
    assert (trail.start, trail.type, trail.leaf) == ("layers", "f32[3,9,8]", True)
    assert [(step.op, step.detail, step.type) for step in trail.steps] == [
        ("scan slice", "", "f32[9,8]"),
        ("convert_element_type", "to bfloat16", "bf16[9,8]"),
        ("transpose", "(1, 0)", "bf16[8,9]"),
        ("convert_element_type", "to float32", "f32[8,9]"),
        ("slice", "[0:8, 0:8]", "f32[8,8]"),
    ]
    first = inspect.getsourcelines(scanned)[1]
    assert [int(step.source.split(":")[1].split(" ")[0]) for step in trail.steps] == [
        first + 4,
        *[first + 2] * 4,
    ]


def test_a_broken_trail_begins_where_it_broke():
    trails, (_, w) = trails_of(added)
    trail = trails.trail(w)
    assert trail.start == trails.describe(w)
    assert not trail.leaf
    assert [(step.op, step.type) for step in trail.steps] == [("transpose", "f32[8,8]")]


def test_a_barrier_over_several_values_follows_the_right_one():
    trails, (_, w) = trails_of(lambda p, x: x @ lax.optimization_barrier((x, p["b"].T))[1])
    trail = trails.trail(w)
    assert trail.start == "b"
    assert [step.op for step in trail.steps] == ["transpose", "optimization_barrier"]


def test_an_invariant_of_a_loop_is_followed_through_it():
    def fn(p, x):
        return lax.fori_loop(0, x.shape[0], lambda _, c: (c[0] @ c[1], c[1]), (x, p["a"]))

    trails, (_, w) = trails_of(fn)
    assert trails.trail(w).start == "a"


# --- what values depend on ------------------------------------------------------------------------


def reads_of(fn, params=P):
    program, flow = dataflow_of(fn, params, X)
    found = reads(flow.graph, [leaf.is_param for leaf in program.leaves])
    return flow, found


def test_reads_are_the_sources_as_far_as_they_go():
    """Against all ancestors of each node, found by networkx."""

    def fn(p, x):
        def step(c, w):
            return (jnp.tanh(c[0] @ w) + p["b"][0], c[0] + c[1] * p["c"][0], c[2]), c[1]

        carried, ys = lax.scan(step, (x, x * 0, p["d"]), jnp.stack([p["a"], p["a"]]))
        return carried, lax.cond(ys.sum() > 0, lambda e: e @ p["f"], lambda e: e, p["e"])

    flow, found = reads_of(fn)
    assert any(edge.get("feedback") for *_, edge in flow.graph.edges(data=True))
    for node, seen in enumerate(found):
        leaves = flow.sources(node)
        params = [leaf for leaf in leaves if leaf < len(P)]
        assert list(seen.params) == params[:LIMIT]
        assert seen.more == (len(params) > LIMIT)
        assert seen.data == (len(P) in leaves)


def test_edges_other_than_feedback_lead_upwards():
    flow, _ = reads_of(lambda p, x: jax.jit(lambda a, x: lax.map(lambda r: r @ a, x))(p["a"], x))
    assert all(a < b for a, b, edge in flow.graph.edges(data=True) if not edge.get("feedback"))
