"""Backward products know the forward product that they differentiate."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.graph.helpers import shape, sites_of

W, X = shape(8, 8), shape(4, 8)


def links(fn, *args):
    """``(role, weight of the forward product, its number in the program)`` of backward products."""
    sites = sites_of(fn, *args)
    numbers = {site.id: k for k, site in enumerate(sites)}
    backward = [site for site in sites if site.role in ("dlhs", "drhs")]
    assert all(site.forward in numbers for site in backward), backward
    return [(s.role, sites[numbers[s.forward]].weight_path, numbers[s.forward]) for s in backward]


def layers(p, x):
    for name in p:
        x = jnp.tanh(x @ p[name])
    return x.sum()


def test_products_of_one_line_are_told_apart_by_their_weights():
    assert links(jax.grad(layers), {"a": W, "b": W}, X) == [
        ("drhs", "b", 1),
        ("dlhs", "b", 1),
        ("drhs", "a", 0),
    ]


def test_products_of_one_line_and_one_weight_are_told_apart_by_their_activations():
    def loss(w, x):
        for _ in range(3):
            x = jnp.tanh(x @ w)
        return x.sum()

    assert (
        links(jax.grad(loss), W, X)
        == [(role, "w", number) for number in (2, 1, 0) for role in ("drhs", "dlhs")][:-1]
    )


def test_input_gradients_alone_go_backwards_through_products_that_are_alike():
    def loss(x, w):
        for _ in range(3):
            x = jnp.tanh(x @ w)
        return x.sum()

    # No weight gradients that would pin the activations: order is all that is left.
    assert [number for *_, number in links(jax.grad(loss), X, W)] == [2, 1, 0]


def test_through_scan_and_rematerialization_to_the_product_that_runs_first():
    def loss(w, x):
        def block(c, w):
            return jnp.tanh(jnp.sin(c @ w["up"]) @ w["down"]), None

        return lax.scan(jax.checkpoint(block), x, w)[0].sum()

    p = {"up": shape(3, 8, 16), "down": shape(3, 16, 8)}
    sites = sites_of(jax.grad(loss), p, X)
    assert links(jax.grad(loss), p, X) == [
        ("drhs", "down", 1),
        ("dlhs", "down", 1),
        ("drhs", "up", 0),
        ("dlhs", "up", 0),
    ]
    again = [s for s in sites[2:] if s.role == "forward"]
    assert [(s.weight_path, s.forward) for s in again] == [
        ("up", sites[0].id),
        ("down", sites[1].id),
    ]


def test_products_of_activations_by_side():
    def loss(p, x):
        q, k = x @ p["q"], x @ p["k"]
        return jnp.sin(jnp.einsum("td,sd->ts", q, k)).sum()

    assert links(jax.grad(loss), {"q": W, "k": W}, X) == [
        ("drhs", "", 2),
        ("dlhs", "", 2),
        ("drhs", "k", 1),
        ("drhs", "q", 0),
    ]


def test_a_weight_on_the_left_keeps_the_meaning_of_the_roles():
    def loss(w, x):
        return jnp.sin(jnp.cos(w @ jnp.cos(w @ x))).sum()

    roles = [role for role, *_ in links(jax.grad(loss), W, shape(8, 4))]
    assert sorted(roles) == ["dlhs", "drhs", "drhs"]


def test_two_weights_multiplied():
    def loss(p, x):
        return jnp.sin(x @ (p["a"] @ p["b"])).sum()

    found = links(jax.grad(loss), {"a": shape(8, 2), "b": shape(2, 8)}, X)
    assert found == [("drhs", "", 1), ("drhs", "b", 0), ("dlhs", "b", 0)]


def test_a_rule_written_by_hand_has_lines_of_its_own():
    call = jax.custom_vjp(lambda x, w: x @ w)
    call.defvjp(
        lambda x, w: (x @ w, (x, w)),
        lambda r, g: (
            g @ r[1].T,
            r[0].T @ g,
        ),
    )

    def loss(w, x):
        return jnp.sin(call(x, w)).sum()

    assert links(jax.grad(loss), W, X) == [("dlhs", "w", 0), ("drhs", "w", 0)]
    # Not differentiated: the rule's own programs are planned, and refer to each other.
    assert [(role, path) for role, path, _ in links(loss, W, X)] == [("dlhs", "w"), ("drhs", "w")]


def test_under_vmap_and_accumulation_over_a_scan():
    def accumulate(p, xs):
        def add(total, x):
            return jax.tree.map(jnp.add, total, jax.grad(layers)(p, x)), None

        return lax.scan(add, jax.tree.map(jnp.zeros_like, p), xs)[0]

    wanted = [("drhs", "b", 1), ("dlhs", "b", 1), ("drhs", "a", 0)]
    assert links(accumulate, {"a": W, "b": W}, shape(3, 4, 8)) == wanted
    assert links(jax.vmap(jax.grad(layers), (None, 0)), {"a": W, "b": W}, shape(3, 4, 8)) == wanted
