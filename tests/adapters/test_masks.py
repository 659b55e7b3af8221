"""Sparse weights: masks as state, with and without quantization, under transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.errors import CallError
from tests.numerics.test_sparsity import by_loops
from tests.programs import CASES, matmul

# Of each case the axis that is summed over; that of one does not divide by 4.
AXES = {"matmul": {"w": 0}, "scanned": {"w": 1}, "several axes": {"w": 1}, "tied": {"emb": 1}}


def sparse(fn, weight=None, act=None, **numbers):
    nm = qpass.NM(**({"n": 2, "m": 4} | numbers))
    return qpass.transform(fn, [qpass.Rule(weight=weight, act=act, sparsity=nm)])


def zeroed(params, axes, n=2, m=4):
    return {
        name: jnp.where(by_loops(np.asarray(w), axes[name], n, m), w, 0) if name in axes else w
        for name, w in params.items()
    }


@pytest.mark.parametrize("weight", [None, "int8", "int4 g8"])
@pytest.mark.parametrize("name", AXES)
def test_results_are_those_of_weights_with_zeros(name, weight):
    """Scales, too, are those of what is left; and what is stored has the zeros."""
    (params, *rest), fn = CASES[name].arguments(), CASES[name].fn
    q = sparse(fn, weight)
    given = q.with_masks(q.init_masks(params, *rest))
    zeros = zeroed(params, AXES[name])
    plain = qpass.transform(fn, [qpass.Rule(weight=weight)]) if weight else fn
    wanted = jax.jit(plain)(zeros, *rest)
    np.testing.assert_array_equal(jax.jit(given)(params, *rest), wanted)
    if weight is None:
        return
    stored = given.quantize(params, *rest)
    np.testing.assert_array_equal(jax.jit(q)(stored, *rest), wanted)  # without masks
    for path in AXES[name]:
        assert np.all(np.asarray(stored[path].dequantize())[np.asarray(zeros[path]) == 0] == 0)


def test_zeros_are_zeros_with_zero_points_and_in_tables():
    params, x = CASES["matmul"].arguments()
    for weight in ("int4 g8 asym", "nf4 g8", "mxfp4"):
        q = sparse(matmul, weight)
        given = q.with_masks(q.init_masks(params, x))
        stored = given.quantize(params, x)
        mask = by_loops(np.asarray(params["w"]), 0, 2, 4)
        assert np.all(np.asarray(stored["w"].dequantize())[~mask] == 0), weight
        np.testing.assert_array_equal(jax.jit(q)(stored, x), jax.jit(given)(params, x))


def test_gradients_go_straight_through_to_all_of_the_weight():
    params, x = CASES["chain"].arguments()
    axes = {"up": 0, "down": 0}

    def loss(p, x):
        return jnp.sum(jnp.sin(CASES["chain"].fn(p, x)))

    q = sparse(loss)
    masks = q.init_masks(params, x)
    got = jax.jit(jax.grad(lambda p: q.with_masks(masks)(p, x)))(params)
    wanted = jax.grad(loss)(zeroed(params, axes), x)
    for name, slope in wanted.items():
        np.testing.assert_allclose(got[name], slope, rtol=1e-5, atol=1e-6)
        assert np.all(np.asarray(got[name]) != 0)


def test_masks_are_made_at_their_steps():
    params, x = CASES["matmul"].arguments()
    q = sparse(matmul, start=2, every=2)
    masks = q.init_masks(params, x)
    assert np.all(masks["w"])
    np.testing.assert_array_equal(q.with_masks(masks)(params, x), matmul(params, x))
    update = jax.jit(q.update_masks)
    made = []
    for step in range(6):
        weights = jax.tree.map(lambda w, step=step: jnp.roll(w, step, 0), params)
        masks = update(masks, step, weights, x)
        made.append(np.asarray(masks["w"]))
    rolled = [by_loops(np.roll(params["w"], step, 0), 0, 2, 4) for step in range(6)]
    for got, wanted in zip(made[2:], (rolled[2], rolled[2], rolled[4], rolled[4]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert np.all(made[1])
    assert np.any(rolled[2] != rolled[4])
    assert update._cache_size() == 1


def test_with_adapters_and_jitted():
    """The weight is sparse, quantized and frozen; what is merged has zeros nowhere."""
    params, x = CASES["matmul"].arguments()
    rule = qpass.Rule(weight="int8", sparsity=qpass.NM(1, 4), lora=qpass.LoRA(rank=2))
    q = qpass.jit(matmul, rules=[rule])
    masks = q.init_masks(params, x)
    adapters = jax.tree.map(jnp.ones_like, q.init_adapters(jax.random.key(0), params, x))
    given = q.with_masks(masks).with_adapters(adapters)
    base = given.quantize(params, x)["w"].dequantize()
    np.testing.assert_allclose(
        given(params, x), x @ base + 16.0 * x.sum(1, keepdims=True), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(CallError, match=r"give masks, as q\.with_masks"):
        q.merge(adapters, params, x)
    merged = qpass.transform(matmul, [rule]).with_masks(masks).merge(adapters, params, x)
    np.testing.assert_allclose(merged["w"], base + 16.0, rtol=1e-6)


def test_a_model_object_takes_masks_too():
    nnx = pytest.importorskip("flax.nnx", reason="needs the extra flax")
    x = CASES["matmul"].arguments()[1]
    model = nnx.Linear(40, 8, rngs=nnx.Rngs(0))
    q = sparse(model, "int8")
    masks = q.init_masks(x)
    masks = q.update_masks(masks, 0, x)
    (mask,) = masks.values()
    np.testing.assert_array_equal(mask, by_loops(np.asarray(model.kernel[...]), 0, 2, 4))
    given = q.with_masks(masks)
    np.testing.assert_array_equal(given(x), given.quantize(x)(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {}, "there are none for up, down"),
        (lambda m: {"up": m["up"]}, "there are none for down"),
        (lambda m: {**m, "upp": m["up"]}, "none is for upp: .*'up'"),
        (lambda m: {**m, "up": m["down"]}, r"that of up has \[40, 24\], not \[24, 40\]"),
        (lambda m: jax.tree.map(jnp.float32, m), "bool array"),
        (lambda m: None, "bool array"),
    ],
)
def test_masks_of_another_program_are_refused(change, message):
    params, x = CASES["chain"].arguments()
    q = sparse(CASES["chain"].fn, "int8")
    masks = q.init_masks(params, x)
    for call in ("__call__", "quantize", "capture", "compare"):
        with pytest.raises(CallError, match=message):
            getattr(q.with_masks(change(masks)), call)(params, x)


def test_rules_without_sparsity_and_quantized_weights_have_no_masks():
    params, x = CASES["matmul"].arguments()
    q = qpass.transform(matmul, [qpass.Rule(weight="int8")])
    with pytest.raises(CallError, match="give rules with sparsity="):
        q.init_masks(params, x)
    with pytest.raises(CallError, match="no rule has sparsity= here"):
        q.with_masks({"w": jnp.ones((40, 24), bool)})(params, x)
    q = sparse(matmul, "int8")
    stored = q.with_masks(q.init_masks(params, x)).quantize(params, x)
    with pytest.raises(CallError, match="make masks of float weights; quantized are w"):
        q.init_masks(stored, x)
