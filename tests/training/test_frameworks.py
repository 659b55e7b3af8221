"""State in Flax's and optax's train states, in NNX Variables, and in checkpoints."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.linen import fp8_ops
from flax.training.train_state import TrainState

import qpass
from qpass import training
from qpass.errors import StateError
from tests.training.common import FORWARD, WHOLE, batch, loss, parameters


def test_three_lines_in_a_train_state():
    """The optimizer sees parameters only; the state is overwritten, and the loss falls."""
    params, x = parameters(), batch()
    q = qpass.transform(loss, WHOLE)
    inside = qpass.value_and_grad(q)
    step = training.overwriting(inside)
    variables = training.variables(params, inside.init_state(params, x))
    ts = TrainState.create(apply_fn=loss, params=variables, tx=optax.adam(1e-2))
    assert jax.tree.structure(ts.opt_state[0].mu) == jax.tree.structure(params)

    @jax.jit
    def train(ts, x):
        value, grads = step(ts.params, x)
        return ts.apply_gradients(grads=grads), value

    values = []
    for _ in range(8):
        ts, value = train(ts, x)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]
    # By hand, with optax alone.
    state, opt = inside.init_state(params, x), optax.adam(1e-2)
    moments = opt.init(params)

    @jax.jit
    def by_hand(state, params, moments):
        (value, grads), state = inside.apply(state, params, x)
        updates, moments = opt.update(grads, moments, params)
        return state, optax.apply_updates(params, updates), moments, value

    for expected in values:
        state, params, moments, value = by_hand(state, params, moments)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4),
        ts.params[fp8_ops.OVERWRITE_WITH_GRADIENT],
        state,
    )


def test_states_of_flax():
    """Flax's own fp8 layer, trained; what it keeps is what we keep, and either goes on from it."""
    of_e5m2 = "fp8_e5m2 delayed,8"
    delayed = "fp8_e4m3 delayed,8"
    rules = qpass.Rule(weight=delayed, act=delayed, grad=of_e5m2)
    op = nn.Dense(
        8,
        use_bias=False,
        dot_general_cls=lambda: fp8_ops.Fp8DirectDotGeneralOp(amax_history_length=8),
    )
    x = batch()
    theirs = op.init(jax.random.key(0), x)
    kernel = {"kernel": theirs["params"]["kernel"]}

    def of_flax(variables, x):
        return jnp.sum(jnp.sin(op.apply(variables, x)))

    def ours(params, x):
        return jnp.sum(jnp.sin(x @ params["kernel"]))

    step = qpass.transform(jax.value_and_grad(ours, argnums=(0, 1)), rules)
    state = step.init_state(kernel, x)
    site = next(iter(state))
    apply, theirs_step = jax.jit(step.apply), jax.jit(jax.value_and_grad(of_flax))
    for seed in range(4):
        (_, (grads, _)), state = apply(state, kernel, batch(seed))
        _, expected = theirs_step(theirs, batch(seed))
        theirs = {**expected, "params": theirs["params"]}
        ours_now = training.to_flax(step.plan(kernel, x), state)[site]
        (kept,) = theirs["_overwrite_with_gradient"].values()
        assert set(ours_now) == set(kept)
        for name, array in kept.items():
            np.testing.assert_allclose(ours_now[name], array, rtol=2e-2, err_msg=name)
            if "grad" not in name:
                np.testing.assert_allclose(ours_now[name], array, rtol=1e-6, err_msg=name)
        gap = np.linalg.norm(grads["kernel"] - expected["params"]["kernel"])
        assert gap <= 0.02 * np.linalg.norm(grads["kernel"])
    plan = step.plan(kernel, x)
    back = training.from_flax(plan, {site: kept})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2), back, state)
    with pytest.raises(StateError, match="input_scale"):
        training.from_flax(plan, {site: {k: v for k, v in kept.items() if k != "input_scale"}})


def test_variables_of_nnx():
    """The model and a Variable with the state are updated in place."""
    model = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    q = qpass.transform(lambda model, x: jnp.mean(model(x) ** 2), WHOLE)
    step = qpass.value_and_grad(q)
    x = batch()
    past = nnx.Variable(step.init_state(model, x))

    @nnx.jit
    def train(model, optimizer, past, x):
        (value, grads), new = step.apply(past.get_value(), model, x)
        optimizer.update(model, grads)
        past.set_value(new)
        return value

    values = [float(train(model, optimizer, past, x)) for _ in range(4)]
    assert values[-1] < values[0]
    (entry,) = past.get_value().values()
    assert float(entry["act"]["history"][0]) == float(jnp.abs(x).max())


def test_checkpoints(tmp_path):
    """A state is a pytree of arrays under names: what saves parameters saves it."""
    orbax = pytest.importorskip("orbax.checkpoint")
    flax_file = pytest.importorskip("safetensors.flax")
    params, x = parameters(), batch()
    step = qpass.transform(jax.value_and_grad(loss), WHOLE)
    _, state = jax.jit(step.apply)(step.init_state(params, x), params, x)

    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "orbax", step.init_state(params, x))
    jax.tree.map(np.testing.assert_array_equal, restored, state)

    flat = {
        jax.tree_util.keystr(path, simple=True, separator="|"): a
        for path, a in jax.tree.leaves_with_path(state)
    }
    flax_file.save_file(flat, tmp_path / "state.safetensors")
    loaded = flax_file.load_file(tmp_path / "state.safetensors")
    tree = jax.tree.structure(state)
    again = jax.tree.unflatten(tree, [loaded[name] for name in flat])
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("jitted", [jax.jit, nnx.jit])
def test_model_objects(jitted):
    """A model object is called, and gives its state, as a function of its own."""
    linear = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
    q, x = qpass.transform(linear, FORWARD), batch()
    state = q.init_state(x)
    out, state = jitted(lambda state, x: q.apply(state, x))(state, x)
    assert out.shape == (12, 8)
    (entry,) = state.values()
    assert float(entry["weight"]["history"][0]) == float(jnp.abs(linear.kernel[...]).max())
    np.testing.assert_array_equal(q.with_state(state)(x), q.apply(state, x)[0])
