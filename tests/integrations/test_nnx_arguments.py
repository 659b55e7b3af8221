"""Functions that receive NNX objects: what they update is updated for the caller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.integrations.helpers import KEEP, W8A8, WIDTH, assert_same, normal, weights
from tests.integrations.nnx_models import TOKENS, Block, Growing, Net, call, make, nnx, state_of

optax = pytest.importorskip("optax")


def train_step(model, optimizer, tokens, *, kind="square"):
    def loss(model):
        logits = model(tokens)
        return (logits**2).mean() if kind == "square" else jnp.abs(logits).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


def trained(run, steps=2, **options):
    model = make()
    optimizer = nnx.Optimizer(model, optax.sgd(1e-2), wrt=nnx.Param)
    values = [float(run(model, optimizer, TOKENS, **options)) for _ in range(steps)]
    return values, state_of(model), state_of(optimizer)


def test_a_whole_training_step():
    wanted = trained(nnx.jit(train_step, static_argnames="kind"), kind="absolute")
    got = trained(qpass.jit(train_step, rules=[], static_argnames="kind"), kind="absolute")
    assert got[0] == wanted[0]
    assert_same(got[1:], wanted[1:])


def test_a_quantized_training_step_learns_and_lists_its_products():
    step = qpass.jit(train_step, rules=W8A8, donate_argnums=(0, 1))
    (first, _, last), _, optimizer = trained(step, steps=3)
    assert last < first
    assert int(optimizer["step"]) == 3
    model = make()
    plan = step.plan(model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param), TOKENS)
    assert {"forward", "dlhs", "drhs"} <= {row.role for row in plan.rows}
    assert set(weights(plan)) == {
        *(f"blocks/0/{name}/kernel" for name in ("up", "down")),
        "embed/embedding",
    }


def test_transformed_outside_and_inside_of_jit():
    wanted = trained(nnx.jit(train_step), steps=1)
    got = trained(nnx.jit(qpass.transform(train_step, [])), steps=1)
    assert got[0] == wanted[0]
    assert_same(got[1:], wanted[1:])


def test_a_jitted_function_has_the_ways_of_jax_jit_for_objects_too():
    model, x = make(Block), normal(2, 3, WIDTH)
    jitted = qpass.jit(call, rules=KEEP)
    compiled = jitted.lower(model, x).compile()
    assert_same(compiled(model, x), nnx.jit(call)(make(Block), x))
    assert jitted(model, x).shape == x.shape
    assert qpass.jit(lambda p, x: x @ p, rules=KEEP)(jnp.eye(WIDTH), x).shape == x.shape


def test_keyword_arguments_containers_and_streams():
    def fn(x, *, parts):
        return parts["model"](x) * jax.random.bernoulli(parts["rngs"][0].noise(), 0.5, x.shape)

    x = normal(2, 3, WIDTH)
    made = [{"model": make(Block), "rngs": [nnx.Rngs(noise=1)]} for _ in range(2)]
    wanted = fn(x, parts=made[0])
    q = qpass.transform(fn, [qpass.Rule(path="model/up/kernel", weight="int8")], params="parts")
    assert weights(q.plan(x, parts=made[1])) == ["model/up/kernel"]
    q = qpass.transform(fn, [], params="parts")
    assert_same(q(x, parts=made[1]), wanted)
    assert_same(state_of(made[1]["model"]), state_of(made[0]["model"]))
    assert_same(state_of(made[1]["rngs"][0]), state_of(made[0]["rngs"][0]))


def test_a_predicate_chooses_parameters_of_several_objects():
    def fn(a, b, x):
        return a(b(x))

    a, b, x = make(Growing), make(Growing), normal(2, WIDTH)
    q = qpass.transform(fn, W8A8, params=lambda path: path.endswith("kernel"))
    assert weights(q.plan(a, b, x)) == ["linear/kernel", "linear/kernel"]
    for stored in q.quantize(a, b, x):
        assert isinstance(stored, Growing)
        assert isinstance(stored.linear.kernel.get_value(), qpass.QTensor)


def test_objects_that_are_shared_between_arguments():
    def fn(a, b, x):
        return a(b(x))

    model, same, x = make(Block), make(Block), normal(2, 3, WIDTH)
    q = qpass.transform(fn, [])
    assert_same(q(same, same, x), fn(model, model, x))
    assert_same(state_of(same), state_of(model))


def test_results_are_the_objects_of_the_caller():
    def fn(model, tokens):
        y = model(tokens)
        return y, model, model.blocks[0], model.blocks[0].up.kernel, make(Block)

    model, same = make(), make()
    wanted = fn(model, TOKENS)
    q = qpass.transform(fn, KEEP)
    y, itself, block, kernel, new = q(same, TOKENS)
    assert_same(y, wanted[0])
    assert itself is same
    assert block is same.blocks[0]
    assert kernel is same.blocks[0].up.kernel
    assert_same(state_of(new), state_of(wanted[4]))
    assert_same(state_of(same), state_of(model))


def test_bare_variables_and_states():
    def fn(params, scale, x):
        scale[...] = scale[...] + 1
        return x @ params["w"]["kernel"][...] * scale[...]

    graphdef, state = nnx.split(nnx.Dict(w=nnx.Linear(WIDTH, 4, rngs=nnx.Rngs(0))))
    scale, x = nnx.Variable(jnp.ones(())), normal(2, WIDTH)
    q = qpass.transform(fn, W8A8)
    assert weights(q.plan(state, scale, x)) == ["w/kernel"]
    once = q(state, scale, x)
    assert float(scale[...]) == 2
    stored = q.quantize(state, scale, x)
    np.testing.assert_allclose(q(stored, scale, x), once * 1.5, rtol=1e-6)
    assert nnx.merge(graphdef, stored)["w"].kernel.get_value().codes.dtype == jnp.int8


def test_an_object_that_is_not_changed_is_not_touched():
    model = make()
    model.eval()
    q = qpass.transform(call, KEEP)
    wanted = q(model, TOKENS).sum()
    # Flax refuses every update from inside of another trace, also one that changes nothing
    scaled = jax.jit(lambda s: (s * q(model, TOKENS)).sum())
    np.testing.assert_allclose(scaled(1.0), wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(scaled)(1.0), wanted, rtol=1e-5)


def test_an_update_that_cannot_be_kept_is_an_error():
    model = make()
    with pytest.raises(qpass.CallError, match="give the NNX object to the function as an argument"):
        qpass.transform(lambda x: model(x), [])(TOKENS)


def test_mutable_arrays_are_refused():
    variable = nnx.Variable(jnp.zeros(3), ref=True)
    with pytest.raises(qpass.CallError, match=r"ref=True. Give nnx.with_vars\(model, ref=False\)"):
        qpass.transform(lambda v, x: v[...] + x, [])(variable, jnp.ones(3))
    plain = nnx.with_vars(variable, ref=False)
    assert_same(qpass.transform(lambda v, x: v[...] + x, [])(plain, jnp.ones(3)), jnp.ones(3))


def test_a_closed_over_model_is_to_be_an_argument():
    model = make()
    model.eval()
    q = qpass.transform(lambda x: model(x), [])
    rows = [row for row in q.plan(TOKENS).rows if row.role == "constant"]
    assert len(rows) == 3
    assert all("pass it as an argument" in row.reason for row in rows)
    with pytest.raises(qpass.RuleError, match="pass the model or its parameters as an argument"):
        qpass.transform(lambda x: model(x), W8A8)(TOKENS)


def test_a_call_that_fails_leaves_the_objects_as_they_are():
    model = make()
    before = state_of(model)
    q = qpass.transform(call, [])
    with pytest.raises(ValueError, match="must be an integer"):
        q(model, TOKENS.astype(jnp.float32))
    assert_same(state_of(model), before)
    assert_same(q(model, TOKENS), make(Net)(TOKENS))
