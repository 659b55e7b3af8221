"""`qpass.jit`: jax.jit of the transformed function, as decorator and as call, traced as seldom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from tests.programs import CASES, rules

INT8 = rules("int8", "int8")
CHAIN = CASES["chain"]


class Counted:
    """A function that counts how often its Python runs."""

    def __init__(self, fn):
        self.fn, self.runs = fn, 0
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, *args, **kwargs):
        self.runs += 1
        return self.fn(*args, **kwargs)


def test_a_call_and_a_decorator_give_the_same():
    params, x = CHAIN.arguments()

    @qpass.jit(rules=INT8)
    def decorated(p, x):
        return CHAIN.fn(p, x)

    called = qpass.jit(CHAIN.fn, rules=INT8)
    wanted = jax.jit(qpass.transform(CHAIN.fn, INT8))(params, x)
    np.testing.assert_array_equal(decorated(params, x), wanted)
    np.testing.assert_array_equal(called(params, x), wanted)


def test_the_result_does_what_that_of_jax_jit_does():
    q, jitted = qpass.jit(CHAIN.fn, rules=INT8), jax.jit(CHAIN.fn)
    args = CHAIN.arguments()
    assert isinstance(q, jax.stages.Wrapped)
    assert all(hasattr(q, name) for name in dir(jitted))
    assert q.__name__ == "chain"
    wanted = q(*args)
    np.testing.assert_array_equal(q.lower(*args).compile()(*args), wanted)
    np.testing.assert_array_equal(q.trace(*args).lower().compile()(*args), wanted)
    assert q.eval_shape(*args) == jitted.eval_shape(*args)
    exported = jax.export.export(q)(*args)
    np.testing.assert_array_equal(exported.call(*args), wanted)
    q.clear_cache()
    assert q._cache_size() == 0


def test_its_methods():
    params, x = CHAIN.arguments()
    q = qpass.jit(CHAIN.fn, rules=INT8)
    assert len(q.plan(params, x).decisions) == 2
    qparams = q.quantize(params, x)
    assert isinstance(qparams["up"], qpass.QTensor)
    np.testing.assert_array_equal(q(qparams, x), q(params, x))
    assert q.compare(params, x).result > 0


def test_methods_decorate_too():
    class Model:
        def __init__(self, w):
            self.w = w

        @qpass.jit(rules=INT8, params="p", static_argnums=0)
        def __call__(self, p, x):
            return x @ p["w"]

    model, x = Model(None), jnp.ones((2, 8))
    np.testing.assert_allclose(model({"w": jnp.ones((8, 4))}, x), 8, rtol=1e-6)


def test_no_python_runs_twice():
    fn = Counted(CHAIN.fn)
    q = qpass.jit(fn, rules=INT8)
    params, x = CHAIN.arguments()
    for scale in (1.0, 2.0, 3.0):
        q(params, x * scale)
    assert fn.runs == 1
    assert q._cache_size() == 1


def test_stored_weights_share_the_trace_of_the_function():
    fn = Counted(CHAIN.fn)
    q = qpass.jit(fn, rules=INT8)
    params, x = CHAIN.arguments()
    qparams = q.quantize(params, x)
    q(params, x)
    q(qparams, x)
    q(jax.tree.map(lambda a: a + 0, qparams), x)
    q.plan(params, x, platform="tpu")
    assert fn.runs == 1
    assert q._cache_size() == 2


def test_other_shapes_and_dtypes_trace_as_jax_does():
    fn, plain = Counted(CHAIN.fn), Counted(CHAIN.fn)
    q, f = qpass.jit(fn, rules=INT8), jax.jit(plain)
    params, x = CHAIN.arguments()
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    for args in ((params, x), (params, x[:2]), low, (params, x[:2]), low, (params, np.asarray(x))):
        q(*args)
        f(*args)
        assert fn.runs == plain.runs
    assert fn.runs == 3


def test_eager_calls_trace_once():
    fn = Counted(CHAIN.fn)
    q = qpass.transform(fn, INT8)
    params, x = CHAIN.arguments()
    for _ in range(3):
        q(params, x)
    assert fn.runs == 1


def test_the_cache_of_programs_has_a_limit(monkeypatch):
    monkeypatch.setattr("qpass.planned.CACHE_LIMIT", 2)
    fn = Counted(lambda p, x, n: x @ p["w"] * n)
    q = qpass.transform(fn, INT8)
    params, x = CASES["matmul"].arguments()
    for n in (1, 2, 3, 3, 2, 1):
        q(params, x, n)
    assert fn.runs == 4


def test_static_arguments_by_number_and_name():
    def fn(p, x, power, *, mode):
        assert isinstance(power, int)
        return (x @ p["w"]) ** power if mode == "power" else x

    fn = Counted(fn)
    p, x = {"w": jnp.ones((8, 4))}, jnp.ones((2, 8))
    q = qpass.jit(fn, rules=INT8, static_argnums=2, static_argnames="mode")
    np.testing.assert_allclose(q(p, x, 2, mode="power"), 64, rtol=1e-6)
    np.testing.assert_allclose(q(p, x, 2, mode="power"), 64, rtol=1e-6)
    assert fn.runs == 1
    np.testing.assert_allclose(q(p, x, 3, mode="power"), 512, rtol=1e-6)
    assert fn.runs == 2


def test_donated_arguments_are_deleted():
    params, x = CHAIN.arguments()
    q = qpass.jit(lambda p, x: CHAIN.fn(p, x), rules=INT8, donate_argnums=1)
    q(params, x)
    assert x.is_deleted()
    assert not params["up"].is_deleted()


def test_shardings_are_those_asked_for():
    mesh = Mesh(np.array(jax.devices()[:4]), ("x",), axis_types=(AxisType.Auto,))
    rows, everywhere = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    q = qpass.jit(
        CASES["matmul"].fn, rules=INT8, in_shardings=(everywhere, rows), out_shardings=rows
    )
    params, x = {"w": jnp.ones((8, 4))}, jnp.ones((8, 8))
    assert q(params, x).sharding.is_equivalent_to(rows, 2)
    assert q(q.quantize(params, x), x).sharding.is_equivalent_to(rows, 2)


def test_a_training_step():
    """The whole step, its gradient inside, with a donated state."""

    def loss(p, x):
        return jnp.mean((CHAIN.fn(p, x) - x) ** 2)

    @qpass.jit(rules=INT8, donate_argnums=0)
    def step(p, x):
        value, grads = jax.value_and_grad(loss)(p, x)
        return jax.tree.map(lambda a, g: a - 0.1 * g, p, grads), value

    params, x = CHAIN.arguments()
    losses = []
    for _ in range(6):
        params, value = step(params, x)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
    assert step._cache_size() == 1


def test_inside_other_transformations():
    params, x = CHAIN.arguments()
    q = qpass.jit(CHAIN.fn, rules=INT8)
    wanted = np.asarray(q(params, x))
    batched = jax.vmap(q, in_axes=(None, 0))(params, x[:, None])
    np.testing.assert_allclose(batched[:, 0], wanted, rtol=1e-5, atol=1e-5)
    looped = jax.lax.map(lambda row: q(params, row[None])[0], x)
    np.testing.assert_allclose(looped, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outer", ["int8", qpass.int4.grouped(8)])
def test_a_site_is_never_quantized_twice(outer):
    """qpass of qpass: the product that is quantized already is no float product any more."""
    params, x = CHAIN.arguments()
    inner = qpass.transform(CHAIN.fn, rules("int8", "int8", path="up"))
    both = qpass.transform(inner, rules(outer))
    decisions = both.plan(params, x).decisions
    assert [d.site.weight_path for d in decisions if d.action] == ["down"]
    rows = both.plan(params, x).rows
    reasons = {row.reason for row in rows if row.op == "quantized_matmul"}
    assert reasons == {"quantized already, by a transformation inside this one"}
    assert len(rows) < 12
    separate = qpass.transform(
        CHAIN.fn, [*rules("int8", "int8", path="up"), *rules(outer, path="down")]
    )
    np.testing.assert_array_equal(both(params, x), separate(params, x))


def test_the_same_rules_twice_change_nothing():
    params, x = CHAIN.arguments()
    once = qpass.transform(CHAIN.fn, INT8)
    twice = qpass.transform(once, INT8, strict=False)
    with pytest.warns(UserWarning, match="rule 0"):
        got = twice(params, x)
    np.testing.assert_array_equal(got, once(params, x))


def test_stored_weights_of_an_outer_transformation_reach_the_inner():
    params, x = CHAIN.arguments()
    inner = qpass.jit(CHAIN.fn, rules=rules("int8", "int8", path="up"))
    both = qpass.jit(inner, rules=rules("int8", "int8", path="down"))
    qparams = both.quantize(params, x)
    assert isinstance(qparams["down"], qpass.QTensor)
    assert not isinstance(qparams["up"], qpass.QTensor)
    np.testing.assert_array_equal(both(qparams, x), both(params, x))
