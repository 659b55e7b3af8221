"""Delayed scaling through whole steps: against float64, and through JAX's transformations."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import qpass
from tests.training.common import (
    BACKWARD,
    FORWARD,
    WHOLE,
    Oracle,
    Past,
    batch,
    layer,
    loss,
    parameters,
    steps,
)

HEAD, LAYERS = "head/dot_general.0", "layers/dot_general.0"


@pytest.fixture(scope="module")
def step():
    return qpass.transform(jax.value_and_grad(loss), WHOLE)


def close(one, other, rtol):
    """Whether two trees agree, by norm of each array."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b)


def same(one, other):
    """Whether two trees are equal, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_six_steps_against_float64(step):
    """Six, as a history of four forgets: the batches grow and shrink again."""
    params, oracle = parameters(), Oracle()
    state = step.init_state(params, batch())
    apply = jax.jit(step.apply, donate_argnums=0)
    for seed in (0, 2, 1, 0, 0, 0):
        (_, grads), new = apply(state, params, batch(seed))
        assert all(array.is_deleted() for array in jax.tree.leaves(state))
        state = new
        expected = oracle.step(params, batch(seed))
        # A code may lie on the other side of a tie; of the scales of the step itself it is 0.02.
        close(grads, expected, 4e-3)
        for name, past in oracle.head.items():
            entry = state[HEAD][name]
            np.testing.assert_allclose(entry["history"][0], past.seen[-1], rtol=1e-3)
            np.testing.assert_allclose(entry["bound"], past.bound, rtol=1e-3)
        for k, of_layer in enumerate(oracle.layers):
            for name, past in of_layer.items():
                entry = state[LAYERS][name]
                np.testing.assert_allclose(entry["history"][k, 0], past.seen[-1], rtol=1e-3)
                np.testing.assert_allclose(entry["bound"][k], past.bound, rtol=1e-3)


def test_gradients_inside_are_those_of_the_helper(step):
    """And those of the same state from outside; also where rules name the backward products."""
    params, x = parameters(), batch()
    q = qpass.transform(loss, WHOLE)
    helped = qpass.value_and_grad(q)
    named = qpass.transform(jax.value_and_grad(loss), (FORWARD, BACKWARD))
    state = step.init_state(params, x)
    for other in (q, helped, named):
        same(other.init_state(params, x), state)
    (value, grads), _ = expected = jax.jit(step.apply)(state, params, x)
    same(jax.jit(helped.apply)(state, params, x), expected)
    same(jax.jit(named.apply)(state, params, x), expected)
    outside = jax.jit(lambda state: jax.value_and_grad(q.with_state(state))(params, x))(state)
    same(outside, (value, grads))


def test_a_jitted_step(step):
    """`qpass.jit` of a whole step, with options of `jax.jit`; one compilation for all states."""

    @qpass.jit(rules=WHOLE, static_argnames="scale")
    def train(params, x, scale):
        return jax.value_and_grad(lambda p: scale * loss(p, x))(params)

    params, x = parameters(), batch()
    state = train.init_state(params, x, scale=1)
    same(state, step.init_state(params, x))
    _, state = train.apply(state, params, x, scale=1)
    result, after = train.apply(state, params, x, scale=1)
    same((result, after), steps(step, step.init_state(params, x), params, [x, x]))
    assert train.recording._cache_size() == 1
    same(train.with_state(state)(params, x, scale=1), result)


@pytest.mark.parametrize(
    "policy",
    [None, pytest.param(jax.checkpoint_policies.dots_saveable, marks=pytest.mark.slow)],
)
def test_remat_and_its_policies_change_nothing(step, policy):
    params, batches = parameters(), [batch(0), batch(1)]
    plain = steps(step, step.init_state(params, batches[0]), params, batches)
    body = jax.checkpoint(layer, policy=policy)
    q = qpass.transform(jax.value_and_grad(lambda p, x: loss(p, x, body)), WHOLE)
    again = steps(q, q.init_state(params, batches[0]), params, batches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), again, plain)


def test_differentiated_from_outside():
    """The next state is an auxiliary result; no gradient flows into it."""
    params, x = parameters(), batch()
    q = qpass.transform(loss, FORWARD)
    state = q.init_state(params, x)

    def aux(params, state):
        return q.apply(state, params, x)

    @jax.jit
    def every(params, state):
        return (
            jax.value_and_grad(aux, has_aux=True)(params, state),
            aux(params, state),
            jax.grad(lambda params: q.with_state(state)(params, x))(params),
            jax.grad(lambda state: aux(params, state)[0])(state),
            jax.grad(lambda params: aux(params, state)[1][HEAD]["weight"]["history"][0])(params),
        )

    (result, grads), expected, fixed, *zeros = every(params, state)
    same(result, expected)
    same(grads, fixed)
    assert not any(np.any(a) for a in jax.tree.leaves(zeros))


def test_a_scan_of_the_users_own():
    """Layers whose states are scanned over, as whole steps are."""
    params, x = parameters()["layers"], batch()
    q = qpass.transform(lambda w, x: layer(x, w)[0], FORWARD)
    one = q.init_state(params[0], x)
    state = jax.tree.map(lambda a: jnp.stack([a] * 3), one)

    def body(x, layer):
        w, state = layer
        return q.apply(state, w, x)

    out, after = jax.jit(lambda: jax.lax.scan(body, x, (params, state)))()
    whole = qpass.transform(lambda ws, x: jax.lax.scan(layer, x, ws)[0], FORWARD)
    expected, wanted = jax.jit(whole.apply)(whole.init_state(params, x), params, x)
    np.testing.assert_array_equal(out, expected)
    (left,), (right,) = after.values(), wanted.values()
    same(left, right)


def test_examples_of_a_vmap_are_merged_by_the_largest():
    params, xs = parameters(), jnp.stack([batch(0), batch(1)])
    q = qpass.transform(loss, FORWARD)
    state = q.init_state(params, xs[0])
    _, states = jax.jit(jax.vmap(q.apply, (None, None, 0)))(state, params, xs)
    merged = qpass.merge_states(states, axis=0)
    single = [jax.jit(q.apply)(state, params, x)[1] for x in xs]
    same(merged, qpass.merge_states(*single))
    largest = float(jnp.abs(xs).max())
    assert float(merged[LAYERS]["act"]["history"][0, 0]) == largest
    # Examples inside of what is transformed share a scale, and need no merging.
    inside = qpass.transform(lambda p, xs: jax.vmap(loss, (None, 0))(p, xs).mean(), FORWARD)
    _, new = jax.jit(inside.apply)(inside.init_state(params, xs), params, xs)
    assert float(new[LAYERS]["act"]["history"][0, 0]) == largest


def test_accumulated_gradients(step):
    """Micro-batches all scale by the same earlier steps; the largest magnitude is recorded."""
    params, xs = parameters(), jnp.stack([batch(0), batch(2), batch(1)])
    apply = jax.jit(step.apply)
    _, state = apply(step.init_state(params, xs[0]), params, batch(1))

    def micro(total, x):
        (_, grads), new = step.apply(state, params, x)
        return jax.tree.map(jnp.add, total, grads), new

    zeros = jax.tree.map(jnp.zeros_like, params)
    _, states = jax.jit(lambda: jax.lax.scan(micro, zeros, xs))()
    merged = qpass.merge_states(states, axis=0)
    for site, name in ((HEAD, "grad"), (LAYERS, "act")):
        every = [apply(state, params, x)[1][site][name]["history"] for x in xs]
        np.testing.assert_allclose(merged[site][name]["history"], np.max(every, 0), rtol=1e-5)
        # Rolled once: the step before is still there, at the end.
        before = state[site][name]["history"]
        np.testing.assert_array_equal(merged[site][name]["history"][..., -1], before[..., 0])


def test_data_parallel(step):
    """Devices of a mesh: the largest of all, however the step is spread over them."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params, x = parameters(), batch()
    state = step.init_state(params, x)
    apply = jax.jit(step.apply)
    (_, grads), expected = apply(state, params, x)

    def local(state, params, x):
        (_, grads), new = step.apply(state, params, x)
        return jax.lax.pmean(grads, "data"), qpass.merge_states(new, over="data")

    specs = {"in_specs": (P(), P(), P("data")), "out_specs": (P(), P())}
    around = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))
    got, new = around(state, params, x)
    for site, name in ((HEAD, "act"), (HEAD, "weight"), (LAYERS, "act"), (LAYERS, "weight")):
        np.testing.assert_allclose(
            new[site][name]["history"], expected[site][name]["history"], rtol=1e-4
        )
    close(got, grads, 2e-2)
    # By the compiler: nothing to be done.
    with_sharding = jax.device_put(x, jax.NamedSharding(mesh, P("data")))
    _, by_compiler = apply(state, params, with_sharding)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-9), by_compiler, expected
    )


def test_a_shard_map_inside():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params, x = parameters(), batch()
    spread = jax.shard_map(
        lambda p, x: jax.lax.pmean(loss(p, x), "data"),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    q = qpass.transform(spread, FORWARD)
    _, state = jax.jit(q.apply)(q.init_state(params, x), params, x)
    assert float(state[LAYERS]["act"]["history"][0, 0]) == float(jnp.abs(x).max())


def test_a_branch_that_is_not_taken_keeps_its_scale():
    def fn(params, x, left):
        return jax.lax.cond(left, lambda: x @ params["a"], lambda: x @ params["b"])

    params = {"a": jnp.eye(16), "b": 2 * jnp.eye(16)}
    q = qpass.transform(fn, FORWARD)
    state = q.init_state(params, batch(), True)
    for left in (True, False):
        _, state = q.apply(state, params, batch(), left)
    taken = {site.split("/")[0]: float(e["weight"]["bound"]) for site, e in state.items()}
    assert taken == {"a": 1.0, "b": 448.0}
    _, state = q.apply(state, params, batch(), False)
    assert [float(e["weight"]["bound"]) for _, e in sorted(state.items())] == [1.0, 2.0]


def test_values_that_are_not_finite_do_not_count():
    q = qpass.transform(lambda w, x: x @ w, FORWARD)
    w, x = jnp.eye(16), batch().at[0, 0].set(jnp.nan).at[1, 1].set(jnp.inf)
    _, state = q.apply(q.init_state(w, x), w, x)
    (entry,) = state.values()
    finite = np.where(np.isfinite(x), x, 0)
    assert float(entry["act"]["history"][0]) == np.abs(finite).max()


def test_what_is_not_differentiated_sees_no_gradient():
    def fn(params, x):
        return jnp.sum(jax.lax.stop_gradient(x @ params["a"]) + 3 * (x @ params["b"]))

    params = {"a": jnp.eye(16), "b": jnp.eye(16)}
    step = qpass.value_and_grad(qpass.transform(fn, WHOLE))
    _, state = jax.jit(step.apply)(step.init_state(params, batch()), params, batch())
    seen = {site[0]: float(entry["grad"]["history"][0]) for site, entry in state.items()}
    assert seen == {"a": 0, "b": 3}


def test_experts():
    """A ragged product, and a product of two activations, beside float64."""

    def fn(w, x, sizes):
        y = jax.lax.ragged_dot(x, w, sizes)
        return y, x @ y.T

    rules = (FORWARD, qpass.Rule(role="activations", act="fp8_e4m3 delayed,4"))
    q = qpass.transform(fn, rules)
    w, sizes = jax.random.normal(jax.random.key(0), (2, 16, 16)), jnp.int32([5, 7])
    state = q.init_state(w, batch(), sizes)
    apply = jax.jit(q.apply)
    past = [Past(ml_dtypes.float8_e4m3fn) for _ in range(4)]
    for seed in (0, 2, 1):
        x = batch(seed)
        (y, scores), state = apply(state, w, x, sizes)
        xq, wq = past[0](x), past[1](w)
        expected = np.concatenate([xq[:5] @ wq[0], xq[5:] @ wq[1]])
        close(y, expected, 2e-3)
        close(scores, past[2](x) @ past[3](y).T, 2e-3)


def test_plan_and_weights():
    """Weights are not stored: the plan says why, and `quantize` leaves them."""
    params, x = parameters(), batch()
    q = qpass.transform(loss, FORWARD)
    row = q.plan(params, x)[HEAD]
    assert not row.stored
    assert "scales it by earlier steps" in row.notes[0]
    assert all(isinstance(a, jax.Array) for a in jax.tree.leaves(q.quantize(params, x)))
    # What looks at a call needs no state: there, operands are scaled by themselves.
    assert {s.site for s in q.compare(params, x).sites} == {HEAD, LAYERS}
    q.capture(params, x)


def test_backward_rules_alone_scale_what_they_name():
    """A float forward pass with quantized gradients has a state of its own."""
    q = qpass.transform(jax.value_and_grad(loss), BACKWARD)
    params, x = parameters(), batch()
    state = q.init_state(params, x)
    assert set(state[HEAD]) == {"act", "weight", "grad"}
    _, new = jax.jit(q.apply)(state, params, x)
    assert float(new[HEAD]["weight"]["history"][0]) == float(jnp.abs(params["head"]).max())
