"""Queries on the dataflow graph."""

import time

import jax
import jax.numpy as jnp
import networkx as nx
from jax import lax

from tests.graph.helpers import dataflow_of, shape

P = {"a": shape(8, 8), "b": shape(8, 8), "c": shape(8)}
X = shape(4, 8)


def operand_sources(fn):
    """For each contraction the leaves that its operands depend on: a is 0, b 1, c 2, x 3."""
    _, flow = dataflow_of(fn, P, X)
    return [[flow.sources(node) for node in found.nodes] for found in flow.contractions]


def test_sources_through_calls_loops_and_branches():
    def f(p, x):
        y = jax.jit(lambda x: x + p["c"])(x)
        y = lax.cond(y[0, 0] > 0, lambda y: y * p["b"][0], lambda y: y, y)
        return y @ p["a"]

    assert operand_sources(f) == [[[1, 2, 3], [0]]]


def test_loops_feed_back():
    def f(p, x):
        def step(c, _):
            return ((jnp.tanh(c[0] @ p["a"]), c[0] + c[1]), None)

        return lax.scan(step, (x, x * 0), None, length=2)[0][1] @ p["b"]

    _, flow = dataflow_of(f, P, X)
    back = [edge for *edge, data in flow.graph.edges(data=True) if data.get("feedback")]
    assert len(back) == 2
    assert not nx.is_directed_acyclic_graph(flow.graph)
    # What the loop adds up depends on the weight only by way of the other carry's next round.
    assert flow.sources(flow.contractions[1].nodes[0]) == [0, 3]


def test_readers_and_what_depends_on_parameters_alone():
    _, flow = dataflow_of(lambda p, x: x @ (p["a"] * p["c"]) + x @ p["a"], P, X)
    derived, plain = (found.nodes[1] for found in flow.contractions)
    ops = [flow.graph.nodes[n]["op"] for n in flow.readers(plain)]
    assert sorted(ops) == ["dot_general", "mul"]
    assert flow.depends_only_on(derived, {0, 2})
    assert not flow.depends_only_on(flow.contractions[0].nodes[0], {0, 1, 2})


def test_uses_of_a_leaf():
    _, flow = dataflow_of(lambda p, x: (x @ p["a"].T, p["a"].sum(), p["b"]), P, X)
    assert [use.op for use in flow.uses[0]] == ["dot_general", "reduce_sum"]
    assert [use.op for use in flow.uses[1]] == ["output"]
    assert 2 not in flow.uses


def test_slots_of_operands():
    _, flow = dataflow_of(lambda p, x: p["a"] @ p["b"], P, X)
    (found,) = flow.contractions
    (equation,) = flow.readers(found.nodes[0])
    assert [flow.graph.edges[node, equation]["slot"] for node in found.nodes] == [0, 1]


def test_ten_thousand_equations_in_a_few_seconds():
    def f(p, x):
        for _ in range(2500):
            x = jnp.tanh(x * p["c"]) + 1
        return x @ p["a"]

    start = time.process_time()
    _, flow = dataflow_of(f, P, X)
    assert flow.graph.number_of_nodes() > 20_000
    assert flow.sources(flow.contractions[0].nodes[0]) == [2, 3]
    assert time.process_time() - start < 8


def test_deep_nesting():
    def f(p, x):
        for _ in range(60):
            x = x @ p["a"]
        return x

    for _ in range(60):
        f = jax.jit(lambda p, x, f=f: f(p, x))
    _, flow = dataflow_of(f, P, X)
    assert len(flow.contractions) == 60
    assert len(flow.contractions[0].place.path) == 60
