"""Routers stay float: found by what their result decides, whatever they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass

D, F, E, T = 16, 24, 4, 20
INT8 = qpass.Rule(weight="int8", act="int8")


def scores_softmax(x, w):
    return jax.nn.softmax((x @ w).astype(jnp.float32), axis=-1)


def scores_sigmoid_and_bias(x, w):
    return jax.nn.sigmoid(x @ w) + jnp.linspace(0, 1, E)


def scores_noisy(x, w):
    return jax.nn.log_softmax(jnp.tanh(x @ w) * 2 - 1)


def moe(scores, k=2):
    """A block in the style of real ones: rows sorted by expert, gate, up and down ragged."""

    def block(params, x):
        weights, chosen = lax.top_k(scores(x, params["a"]), k)
        order = jnp.argsort(chosen.reshape(-1))
        rows = x[order // k]
        sizes = jnp.bincount(chosen.reshape(-1), length=E).astype(jnp.int32)
        gate = jax.nn.silu(lax.ragged_dot(rows, params["b"], sizes))
        out = lax.ragged_dot(gate * lax.ragged_dot(rows, params["c"], sizes), params["d"], sizes)
        out = out[jnp.argsort(order)].reshape(*chosen.shape, -1)
        return jnp.sum(out * weights[..., None], axis=1)

    return block


def arguments():
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"a": (D, E), "b": (E, D, F), "c": (E, D, F), "d": (E, F, D)}
    params = {
        name: jax.random.normal(k, s) * 0.3
        for k, (name, s) in zip(keys[1:], shapes.items(), strict=True)
    }
    return params, jax.random.normal(keys[0], (T, D))


def decided(plan):
    return {d.site.weight_path: d for d in plan.decisions if d.site.role == "forward"}


@pytest.mark.parametrize("scores", [scores_softmax, scores_sigmoid_and_bias, scores_noisy])
def test_router_is_found_and_experts_are_quantized(scores):
    q = qpass.transform(moe(scores), INT8)
    found = decided(q.plan(*arguments()))
    assert found["a"].action is None
    assert "router: top_k" in found["a"].reason
    assert all(found[name].stored for name in "bcd")


def test_block_is_close_to_float_and_alike_for_stored_parameters():
    params, x = arguments()
    block = moe(scores_softmax)
    q = qpass.transform(block, INT8)
    got, want = np.asarray(jax.jit(q)(params, x)), np.asarray(block(params, x))
    assert abs(got - want).sum() < 0.04 * abs(want).sum()
    np.testing.assert_array_equal(got, np.asarray(jax.jit(q)(q.quantize(params, x), x)))


def test_rule_that_fits_routers_only_is_obeyed():
    named = qpass.Rule(path="a", weight="int8")
    found = decided(qpass.transform(moe(scores_softmax), [named, INT8]).plan(*arguments()))
    assert str(found["a"].quantized.scheme) == "int8 weight-only"


def test_rule_that_fits_others_too_means_no_router():
    wide = qpass.Rule(path=("a", "b"), weight="int8")
    found = decided(qpass.transform(moe(scores_softmax), [wide, INT8]).plan(*arguments()))
    assert found["a"].action is None
    assert found["b"].action is not None


def test_layers_of_a_scan_have_routers():
    params, x = arguments()
    stacked = jax.tree.map(lambda w: jnp.stack([w, w * 0.5]), params)

    def model(params, x):
        def layer(x, params):
            return x + moe(scores_softmax)(params, x), None

        return lax.scan(layer, x, params)[0]

    found = decided(qpass.transform(model, INT8).plan(stacked, x))
    assert [name for name, d in found.items() if d.action is None] == ["a"]


def test_router_run_again_by_rematerialization_is_kept_too():
    params, x = arguments()

    def step(params, x):
        return jax.grad(lambda p: jnp.sum(jax.checkpoint(moe(scores_softmax))(p, x)))(params)

    plan = qpass.transform(step, INT8).plan(params, x)
    routers = [d for d in plan.decisions if d.site.role == "forward" and d.site.weight_path == "a"]
    assert len(routers) == 2
    assert all("router" in d.reason for d in routers)


def test_dense_dispatch_has_scales_by_expert_and_its_router_is_found():
    """Every expert sees a table of rows, as in blocks with a capacity."""
    keys = jax.random.split(jax.random.key(1), 4)
    params = {
        "route": jax.random.normal(keys[0], (D, E)),
        "in": jax.random.normal(keys[1], (E, 2, F, D)),  # ekfd: gate and up in one
        "out": jax.random.normal(keys[2], (E, F, D)),
    }
    x = jax.random.normal(keys[3], (2, T, D))

    def block(params, x):
        probs = jax.nn.softmax(jnp.einsum("gtd,de->gte", x, params["route"]))
        chosen = jax.nn.one_hot(jnp.argmax(probs, -1), E)
        table = jnp.einsum("gtd,gte->getd", x, chosen)
        gate, up = jnp.einsum("gecd,ekfd->kgecf", table, params["in"])
        out = jnp.einsum("gecf,efd->gecd", jax.nn.silu(gate) * up, params["out"])
        return jnp.einsum("getd,gte->gtd", out, probs * chosen)

    q = qpass.transform(block, INT8)
    found = decided(q.plan(params, x))
    assert "router: argmax" in found["route"].reason
    stored = q.quantize(params, x)
    sizes = {name: np.squeeze(stored[name].scale).shape for name in ("in", "out")}
    assert sizes == {"in": (E, 2, F), "out": (E, D)}  # all axes but the contracted one
    np.testing.assert_array_equal(jax.jit(q)(params, x), jax.jit(q)(stored, x))


def test_logits_that_a_token_is_taken_from_are_no_router():
    def decode(params, x):
        logits = jax.nn.relu(x @ params["up"]) @ params["head"]
        return jnp.argmax(jax.nn.log_softmax(logits), -1), lax.top_k(logits, 3)

    params = {"up": jnp.ones((D, F)), "head": jnp.ones((F, 50))}
    plan = qpass.transform(decode, INT8).plan(params, jnp.ones((T, D)))
    assert all(d.action is not None for d in plan.decisions)


def test_tokens_that_go_round_a_loop_make_no_router():
    def generate(params, token):
        def step(_, token):
            return jnp.argmax(jnp.tanh(params["table"][token] @ params["head"]), -1)

        return lax.fori_loop(0, 4, step, token)

    params = {"table": jnp.ones((50, D)), "head": jnp.ones((D, 50))}
    plan = qpass.transform(generate, INT8).plan(params, jnp.zeros(3, jnp.int32))
    assert all(d.action is not None for d in plan.decisions)
