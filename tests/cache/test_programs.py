"""Caches in all ways in which programs write and read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.cache import oracle, programs
from tests.cache.programs import BOTH, B, H, L, N, S

STACK = (L, *programs.SHAPE)


def stores(store="int8", **kwargs):
    return qpass.Rule(cache=BOTH, store=store, **kwargs)


def floats(cache):
    is_leaf = lambda v: isinstance(v, qpass.QTensor)  # noqa: E731
    return jax.tree.map(lambda q: np.asarray(q.dequantize()), cache, is_leaf=is_leaf)


def shapes(tree):
    return [(a.shape, a.dtype) for a in jax.tree.leaves(tree)]


def entries(p, x):
    return (np.asarray(a) for a in programs.project(p, x)[1:])


@pytest.mark.parametrize(
    ("store", "per", "qtype", "group", "axes"),
    [
        ("int8", "token", "int8", None, (-1,)),
        ("int4", "token", "int4", None, (-1,)),
        ("int4 g4", None, "int4", 4, (-1,)),
        ("int8", (0, 1), "int8", None, (-2, -1)),
    ],
)
def test_what_is_written_is_quantized_and_read_as_codes(store, per, qtype, group, axes):
    p, x = programs.params(), programs.inputs(5)
    q = qpass.transform(programs.step, stores(store, per=per))
    cache = q.quantize_cache(p, x, programs.empty(), 0)
    y, cache = jax.jit(q)(p, x, cache, 0)
    y, cache = jax.jit(q)(p, x[:, :1], cache, 5)
    both = jnp.concatenate([x, x[:, :1]], 1)
    for name, values in zip("kv", entries(p, both), strict=True):
        error = np.abs(floats(cache)[name][:, :6] - values)
        step = oracle.steps(values, qtype, group, axes)
        assert (error <= 0.5 * step * (1 + 1e-5)).all()
        assert error.max() > 0.3 * step.min()
        assert (floats(cache)[name][:, 6:] == 0).all()
    exact = oracle.attend(p, x[:, :1], floats(cache)["k"], floats(cache)["v"], 5)
    np.testing.assert_allclose(y, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("store", "levels", "group"), [("int8 asym", 255, H), ("int4 g4 asym", 15, 4)]
)
def test_zero_points_are_those_of_each_entry(store, levels, group):
    """Entries far from zero: their range is what they differ by, and zero."""
    p, x = programs.params(), 3 + programs.inputs(5)
    q = qpass.transform(programs.step, stores(store))
    cache = q.quantize_cache(p, x, programs.empty(), 0)
    y, cache = jax.jit(q)(p, x, cache, 0)
    for name, values in zip("kv", entries(p, x), strict=True):
        assert cache[name].zero.shape == cache[name].scale.shape
        cut = values.reshape(*values.shape[:-1], -1, group)
        low, high = cut.min(-1, initial=0), cut.max(-1, initial=0)
        error = np.abs(floats(cache)[name][:, :5].reshape(cut.shape) - cut).max(-1)
        assert (error <= (high - low) / levels * (1 + 1e-4)).all()
    exact = oracle.attend(p, x, floats(cache)["k"], floats(cache)["v"], 0)
    np.testing.assert_allclose(y, exact, rtol=2e-5, atol=5e-5)


def test_codes_of_fp8_are_those_of_each_entry():
    p, x = programs.params(), programs.inputs(1)
    q = qpass.transform(programs.step, stores("fp8_e4m3"))
    y, cache = q(p, x, q.quantize_cache(p, x, programs.empty(), 0), 0)
    key = next(entries(p, x))
    found = floats(cache)["k"][:, :1]
    assert cache["k"].qtype == qpass.fp8_e4m3
    assert np.abs(found - key).max() <= np.abs(key).max() / 16
    exact = oracle.attend(p, x, floats(cache)["k"], floats(cache)["v"], 0)
    np.testing.assert_allclose(y, exact, rtol=2e-5, atol=2e-5)


ONE = (programs.params, programs.SHAPE)
STACKED = (lambda: programs.params(L), STACK)
PROGRAMS = {
    "ring": (programs.ring, *ONE, 1, S + 3),
    "rows": (programs.rows, *ONE, 1, jnp.array([3, 5])),
    "mapped": (programs.mapped, *ONE, 2, jnp.array([3, 5])),
    "chosen": (programs.chosen, *ONE, 2, 4),
    "carried": (programs.carried, *STACKED, 2, 4),
    "scanned": (programs.scanned, *STACKED, 2, 4),
    "written back": (programs.written_back, *STACKED, 2, 4),
    "generate": (programs.generate, *ONE, 1, 4),
}


ASYMMETRIC = [(name, "int8 asym") for name in ("rows", "carried", "scanned", "generate")]


@pytest.mark.parametrize(("name", "store"), [*((name, "int8") for name in PROGRAMS), *ASYMMETRIC])
def test_every_way_to_write_a_cache(name, store):
    fn, weights, shape, steps, pos = PROGRAMS[name]
    p, x = weights(), programs.inputs(steps)
    q = qpass.transform(fn, stores(store))
    rng = np.random.default_rng(3)
    filled = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), programs.empty(shape)
    )
    cache = q.quantize_cache(p, x, filled, pos)
    y, after = jax.jit(q)(p, x, cache, pos)
    exact, exact_after = fn(p, x, filled, pos)
    assert jax.tree.structure(after) == jax.tree.structure(cache)
    assert shapes(after) == shapes(cache)
    for name in "kv":
        error = np.abs(floats(after)[name] - exact_after[name]).max()
        assert error < 0.05 * np.abs(exact_after[name]).max()
    np.testing.assert_allclose(y, exact, atol=0.05 * np.abs(exact).max())
    assert not q.plan(p, x, cache, pos).rewritten_notes
    untouched = jax.tree.leaves(cache)[0] == jax.tree.leaves(after)[0]
    assert np.asarray(untouched).mean() > 0.5


def test_pages_of_a_pool():
    p, x = programs.params(), programs.inputs(1)
    pool = programs.empty(programs.POOL)
    table, pos = jnp.array([[1, 4, 6], [0, 3, 7]]), jnp.array([2, 5])
    q = qpass.transform(programs.paged, stores())
    stored = q.quantize_cache(p, x, pool, table, pos)
    y, after = jax.jit(q)(p, x, stored, table, pos)
    exact, exact_after = programs.paged(p, x, pool, table, pos)
    np.testing.assert_allclose(floats(after)["k"], exact_after["k"], atol=0.05)
    np.testing.assert_allclose(y, exact, atol=0.05 * np.abs(exact).max())
    assert not q.plan(p, x, stored, table, pos).rewritten_notes


def continued(fn, p, x, prompt, store, shape):
    """From a cache that the prompt filled as floats, converted; and from scratch."""
    q = qpass.transform(fn, stores(store))
    step, empty = jax.jit(q), programs.empty(shape)
    _, scratch = step(p, x[:, :5], q.quantize_cache(p, x[:, :5], empty, 0), 0)
    _, filled = jax.jit(prompt or q)(p, x[:, :5], empty, 0)
    converted = q.quantize_cache(p, x[:, :5], filled, 0)
    for pos in range(5, 8):
        mine, converted = step(p, x[:, pos : pos + 1], converted, pos)
        theirs, scratch = step(p, x[:, pos : pos + 1], scratch, pos)
        np.testing.assert_array_equal(mine, theirs)
    for a, b in zip(jax.tree.leaves(converted), jax.tree.leaves(scratch), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("store", ["int8", "int4 g4", "int4 g4 asym"])
def test_continuing_from_a_float_prompt_is_generating_from_scratch(store):
    args = programs.params(), programs.inputs(8), programs.step
    continued(programs.step, *args, store, programs.SHAPE)


def test_continuing_where_entries_depend_on_attention():
    """The prompt is read by the same function, whose cache comes and goes as floats."""
    args = programs.params(L), programs.inputs(8), None
    continued(programs.carried, *args, "int8", STACK)


def test_a_float_cache_gives_what_a_stored_one_does():
    p, x = programs.params(), programs.inputs(2)
    q = qpass.transform(programs.step, stores())
    _, filled = programs.step(p, programs.inputs(6), programs.empty(), 0)
    y, after = jax.jit(q)(p, x, filled, 6)
    stored, stored_after = jax.jit(q)(p, x, q.quantize_cache(p, x, filled, 6), 6)
    np.testing.assert_array_equal(y, stored)
    np.testing.assert_array_equal(after["v"], floats(stored_after)["v"])


def test_gradients_go_through_a_float_cache():
    p, x = programs.params(), programs.inputs(2)
    q = qpass.transform(programs.step, stores())
    loss = lambda fn: lambda p: (fn(p, x, programs.empty(), 0)[0] ** 2).sum()  # noqa: E731
    mine, exact = jax.grad(loss(q))(p), jax.grad(loss(programs.step))(p)
    for name in p:
        np.testing.assert_allclose(mine[name], exact[name], atol=0.1 * np.abs(exact[name]).max())


def test_bytes_and_donation():
    p, x = programs.params(), programs.inputs(1)
    q = qpass.transform(programs.step, stores())
    cache = q.quantize_cache(p, x, programs.empty(), 0)
    assert cache["k"].nbytes == B * S * N * (H + 4)
    step = jax.jit(q, donate_argnums=2)
    _, after = step(p, x, cache, 0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(cache))
    assert after["v"].nbytes == B * S * N * (H + 4)


def test_converting_keeps_shapes_abstract():
    p, x = programs.params(), programs.inputs(1)
    q = qpass.transform(programs.step, stores())
    struct = jax.eval_shape(programs.empty)
    cache = q.quantize_cache(p, x, struct, 0)
    assert isinstance(cache["k"].codes, jax.ShapeDtypeStruct)
    assert cache["k"].shape == struct["k"].shape
