"""`transform(model)` of a Flax NNX module: another one, which updates what the model would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.helpers import is_qtensor
from tests.integrations.helpers import (
    KEEP,
    W8A8,
    WIDTH,
    assert_close,
    assert_finite,
    assert_same,
    normal,
    weights,
)
from tests.integrations.nnx_models import (
    TOKENS,
    Block,
    Branching,
    Growing,
    Nested,
    Net,
    Scanned,
    call,
    make,
    nnx,
    shapes,
    stacked,
    state_of,
)

optax = pytest.importorskip("optax")

DENSE = ["blocks/0/up/kernel", "blocks/0/down/kernel"]
PATHS = {
    Net: [*DENSE, "embed/embedding"],
    Nested: [*DENSE, "embed/embedding"],
    Branching: [*DENSE * 2, "embed/embedding"],  # in the loop, and in one branch
    Scanned: ["blocks/up/kernel", "blocks/down/kernel", "embed/embedding"],
}
KINDS = pytest.mark.parametrize("kind", PATHS, ids=lambda kind: kind.__name__)


def quantized(model):
    """Paths of the Variables that hold QTensors."""
    values = nnx.to_flat_state(nnx.state(model))
    return {"/".join(map(str, path)) for path, v in values if is_qtensor(v.get_value())}


@KINDS
def test_without_rules_it_is_the_model_and_updates_what_the_model_updates(kind):
    model, same = make(kind), make(kind)
    q = qpass.transform(same, [])
    run, wanted = nnx.jit(call), nnx.jit(call)
    for _ in range(2):
        assert_same(run(q, TOKENS), wanted(model, TOKENS))
    assert_same(state_of(same), state_of(model))


@KINDS
def test_weights_have_the_paths_of_the_model_and_serve_the_bits_of_training(kind):
    model = make(kind)
    model.eval()
    q = qpass.transform(model, W8A8)
    assert weights(q.plan(TOKENS)) == PATHS[kind]
    stored = q.quantize(TOKENS)
    assert quantized(stored.module) == set(PATHS[kind])
    served = nnx.jit(call)(stored, TOKENS)
    assert_same(nnx.jit(call)(q, TOKENS), served)
    assert_close(served, nnx.jit(call)(model, TOKENS))


def test_statistics_and_random_streams_advance_without_jit():
    model, same = make(), make()
    q = qpass.transform(same, KEEP)
    for _ in range(2):
        assert_same(q(TOKENS), model(TOKENS))
    assert_same(state_of(same), state_of(model))
    assert_same(state_of(q)["module"], state_of(model))


def test_quantized_calls_advance_the_streams_and_statistics_too():
    model, same = make(), make()
    q = qpass.transform(same, W8A8)
    nnx.jit(call)(q, TOKENS), nnx.jit(call)(model, TOKENS)
    got, wanted = state_of(same)["blocks"][0], state_of(model)["blocks"][0]
    assert_same(got["drop"], wanted["drop"])
    np.testing.assert_allclose(got["norm"]["mean"], wanted["norm"]["mean"], atol=1e-4)
    assert not np.array_equal(got["norm"]["mean"], wanted["norm"]["mean"])  # of quantized rows
    assert np.abs(got["norm"]["mean"]).max() > 1e-3


def test_stored_weights_are_qtensors_in_a_module_of_its_own():
    model = make()
    before = state_of(model)
    stored = qpass.transform(model, W8A8).quantize(TOKENS)
    assert isinstance(stored, nnx.Module)
    assert stored.module.blocks[0].up.kernel.get_value().codes.dtype == jnp.int8
    assert type(stored.module.blocks[0].up.kernel) is nnx.Param
    stored(TOKENS)
    assert_same(state_of(model), before)
    assert int(stored.module.blocks[0].drop.rngs.count[...]) == 1


def test_quantize_may_give_up_the_float_weights():
    model = make()
    stored = qpass.transform(model, W8A8).quantize(TOKENS, donate=True)
    assert model.blocks[0].up.kernel[...].is_deleted()
    assert not model.blocks[0].norm.scale[...].is_deleted()
    assert_finite(stored(TOKENS))


def test_gradients_have_the_structure_of_the_model():
    def loss(model):
        return (model(TOKENS) ** 2).mean()

    model = make()
    q = qpass.transform(model, W8A8)
    value, got = nnx.jit(nnx.value_and_grad(loss))(q)
    assert shapes(got["module"]) == shapes(nnx.state(make(), nnx.Param))
    assert np.isfinite(value)
    assert_finite(got)
    assert int(model.blocks[0].drop.rngs.count[...]) == 1  # what ran inside was updated


def test_an_optimizer_takes_it_for_the_model():
    def losses(model):
        optimizer = nnx.Optimizer(model, optax.sgd(1e-2), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer):
            value, grads = nnx.value_and_grad(lambda m: (m(TOKENS) ** 2).mean())(model)
            optimizer.update(model, grads)
            return value

        return [float(step(model, optimizer)) for _ in range(2)]

    model, same = make(), make()
    assert losses(qpass.transform(same, [])) == losses(model)
    assert_same(state_of(same), state_of(model))


def test_split_merge_state_and_update():
    model = make()
    q = qpass.transform(model, W8A8)
    model.eval()
    graphdef, params, rest = nnx.split(q, nnx.Param, ...)
    assert_same(nnx.merge(graphdef, params, rest)(TOKENS), q(TOKENS))
    before = q(TOKENS)
    nnx.update(q, jax.tree.map(lambda a: a * 2, nnx.state(q, nnx.Param)))
    assert_close(before, q(TOKENS), within=10)
    assert_same(model.embed.embedding[...], q.module.embed.embedding[...])
    copy = nnx.clone(q)
    copy.module.embed.embedding[...] = jnp.zeros((10, WIDTH))
    assert float(jnp.abs(model.embed.embedding[...]).sum()) > 0


def test_stacked_modules_under_vmap():
    x = normal(2, 3, WIDTH)
    each = nnx.vmap(call, in_axes=(0, None))
    model, same = stacked(nnx.Rngs(0)), stacked(nnx.Rngs(0))
    assert_same(nnx.jit(each)(qpass.transform(same, []), x), nnx.jit(each)(model, x))
    assert_same(state_of(same), state_of(model))
    q = qpass.transform(model, W8A8)
    stored = nnx.vmap(lambda q, x: q.quantize(x), in_axes=(0, None))(q, x)
    assert stored.module.up.kernel.get_value().shape == (2, WIDTH, 2 * WIDTH)
    model.eval()
    stored.eval()
    assert_same(nnx.jit(each)(q, x), nnx.jit(each)(stored, x))


def test_transforms_around_it():
    x = normal(2, 3, WIDTH)
    model = make(Block)
    model.eval()
    q = qpass.transform(model, W8A8)
    wanted = nnx.jit(call)(q, x)
    assert_same(nnx.jit(nnx.remat(call))(q, x), wanted)

    @nnx.scan(in_axes=(None, nnx.Carry), out_axes=nnx.Carry, length=2)
    def twice(q, x):
        return q(x)

    assert_close(twice(q, x), call(model, call(model, x)))
    assert_same(jax.jit(call)(q, x), wanted)  # as the pytree that it is
    linear = qpass.transform(model.up, W8A8)
    grads = jax.grad(lambda q: q(x).sum())(linear)
    assert shapes(nnx.state(grads)) == shapes(nnx.state(linear))


def test_shared_modules_and_variables_stay_shared():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.b = self.a
            self.c = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.c.kernel = self.a.kernel

        def __call__(self, x):
            return self.c(self.b(self.a(x)))

    q = qpass.transform(make(Tied), W8A8)
    x = normal(2, WIDTH)
    assert weights(q.plan(x)) == ["a/kernel"] * 3
    stored = q.quantize(x)
    assert stored.module.a is stored.module.b
    assert stored.module.c.kernel is stored.module.a.kernel
    assert_same(nnx.jit(call)(q, x), nnx.jit(call)(stored, x))


def test_changes_by_more_than_values_reach_the_model():
    model, same = make(Growing), make(Growing)
    q = qpass.transform(same, KEEP)
    x = normal(2, WIDTH)
    for run in (call, call, nnx.jit(call)):
        assert_same(run(q, x), run(model, x))
    assert (same.calls, same.count.get_value()) == (model.calls, model.count.get_value())
    assert not hasattr(same, "scratch")
    assert_same(state_of(same), state_of(model))


def test_plans_and_comparisons_update_nothing():
    model = make()
    before = state_of(model)
    q = qpass.transform(model, W8A8)
    assert q.compare(TOKENS).result > 0
    q.plan(TOKENS)
    q.quantize(TOKENS)
    assert_same(state_of(model), before)


def test_intermediates_are_captured():
    class Sowing(nnx.Linear):
        def __call__(self, x):
            self.sow(nnx.Intermediate, "input", x)
            return super().__call__(x)

    def make(kind):
        return kind(WIDTH, 4, rngs=nnx.Rngs(0))

    x = normal(2, WIDTH)
    wanted = nnx.capture(make(Sowing), nnx.Intermediate)(x)
    got = nnx.capture(qpass.transform(make(Sowing), []), nnx.Intermediate)(x)
    assert_same(got[0], wanted[0])
    assert_same(nnx.to_pure_dict(got[1])["module"], nnx.to_pure_dict(wanted[1]))


def test_a_cache_for_decoding_fills():
    def attention():
        made = nnx.MultiHeadAttention(2, WIDTH, decode=True, rngs=nnx.Rngs(0))
        made.init_cache((1, 4, WIDTH))
        return made

    model, same, x = attention(), attention(), normal(1, 1, WIDTH)
    q = qpass.transform(same, [])
    for _ in range(3):
        assert_same(q(x), model(x))
    assert_same(state_of(same), state_of(model))
    stored = qpass.transform(same, W8A8).quantize(x)
    stored(x)
    assert (int(same.cache_index[...]), int(stored.module.cache_index[...])) == (3, 4)


def test_a_method_of_a_module():
    model = make()
    q = qpass.transform(model.blocks[0].up.__call__, W8A8)
    x = normal(2, WIDTH)
    assert weights(q.plan(x)) == ["kernel"]
    assert isinstance(q, nnx.Module)
    q = qpass.transform(make(Jitting).run, W8A8)
    assert weights(q.plan(x)) == ["linear/kernel"]
    assert_close(q(x), q.module.linear(x))


class Jitting(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    @nnx.jit
    def run(self, x):
        return self.linear(x)


def test_a_transformed_module_is_transformed_again_under_the_same_paths():
    x = normal(2, WIDTH)
    inner = qpass.transform(nnx.Linear(WIDTH, 8, rngs=nnx.Rngs(0)), KEEP)
    assert weights(qpass.transform(inner, W8A8).plan(x)) == ["kernel"]


def test_a_module_transformed_twice_fits_the_optimizer_state_of_the_first():
    model = make()
    one, two = (nnx.graphdef(qpass.transform(model, W8A8)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != nnx.graphdef(qpass.transform(model, KEEP))
