"""Stored weights of scanned layers are read inside of their stacks, under every transformation."""

import math
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import qpass
from qpass_kernels import REFERENCE, Kernel
from qpass_kernels.cpu import CPU
from qpass_kernels.native import why_not
from qpass_kernels.native.floating import NATIVE_FLOAT
from tests.helpers import text
from tests.rewriting.oracle import INT8, random

X = random(4, 8, seed=2)


def layer(x, w):
    return jnp.tanh(x @ w), None


def over(body, **options):
    """The function that scans ``body`` over a stack."""
    return lambda w, x: lax.scan(body, x, w, **options)[0]


@jax.custom_vjp
def twice(x, w):
    return 2 * (x @ w)


twice.defvjp(lambda x, w: (twice(x, w), w), lambda w, g: (3 * g @ w.T, None))


def in_shards(w, x):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(over(layer), mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
    return split(w, x)


def cast(x, w):
    low = x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
    return low.astype(x.dtype), None


# What is scanned, and the shape of the stack
STACK, STACKS = (3, 8, 8), (2, 3, 8, 8)
MODELS = {
    "scan": (over(layer), STACK),
    "backwards": (over(layer, reverse=True), STACK),
    "unrolled": (over(layer, unroll=2), STACK),
    "rematerialized": (over(jax.checkpoint(layer)), STACK),
    "jit": (over(jax.jit(layer)), STACK),
    "stack in a stack": (over(lambda x, w: (over(layer)(w, x), None)), STACKS),
    "scan in a loop": (lambda w, x: lax.fori_loop(0, 2, lambda _, x: over(layer)(w, x), x), STACK),
    "branch": (over(lambda x, w: (lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: -x), None)), STACK),
    "own derivative": (over(lambda x, w: (twice(x, w), None)), STACK),
    "transposed": (over(lambda x, w: (jnp.tanh(x @ w.T), None)), STACK),
    "mapped": (over(lambda x, w: (jax.vmap(lambda x: jnp.tanh(x @ w))(x), None)), STACK),
    "cast": (over(cast), STACK),
    "experts": (over(lambda x, w: (jnp.einsum("ek,ekn->en", x, w), None)), (3, 4, 8, 8)),
    "one of two": (over(lambda x, w: (jnp.tanh(x @ w[1]) * (x @ w[0]), None)), (3, 2, 8, 8)),
    "weight left": (over(lambda x, w: (jnp.einsum("kn,bk->bn", w, x), None)), STACK),
    "shards": (in_shards, STACK),
}


def results(q, forward, w, x):
    """The value, values of several x at once, the gradient, and the derivative along x."""
    fn = partial(q, w)
    several = jax.vmap(fn)(jnp.stack([x, 2 * x]))
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(fn(x))))(x)
    return fn(x), several, gradient, jax.jvp(fn, (x,), (x,)) if forward else ()


@pytest.mark.parametrize("name", MODELS)
def test_results_are_those_of_layers_cut_out_by_the_scan(name):
    model, shape = MODELS[name]
    w = random(*shape, seed=1)
    q = qpass.transform(model, INT8)
    stored = q.quantize(w, X)
    assert "a layer of" in text(q, (stored, X))
    assert "a layer of" not in text(q, (w, X))  # a float weight gets its gradient by layer
    forward = name != "own derivative"  # JAX has no forward mode for custom_vjp
    run = jax.jit(partial(results, q, forward))
    got, wanted = run(stored, X), run(w, X)
    np.testing.assert_array_equal(got[0], wanted[0])
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)


def test_values_of_layers_one_after_the_other():
    w = random(*STACK, seed=1)
    q = qpass.transform(over(layer, reverse=True), INT8)
    one = qpass.transform(lambda w, x: layer(x, w)[0], INT8)
    x = X
    for k in (2, 1, 0):
        x = jax.jit(one)(w[k], x)
    np.testing.assert_array_equal(jax.jit(q)(q.quantize(w, X), X), x)


def test_what_is_no_product_reads_the_layer_cut_out():
    w = random(*STACK, seed=1)
    q = qpass.transform(over(lambda x, w: (x @ w.T + w[jnp.argmax(x, 1)], None)), INT8)
    stored = q.quantize(w, X)
    after = text(q, (stored, X))
    assert "a layer of 3" in after
    assert "dynamic_slice" in after
    np.testing.assert_array_equal(jax.jit(q)(stored, X), jax.jit(q)(w, X))


def test_gradients_keep_one_stack_only():
    w = random(*STACK, seed=1)
    q = qpass.transform(over(jax.checkpoint(layer)), INT8)
    stored = q.quantize(w, X)
    gradient = text(jax.grad(lambda x: q(stored, x).sum()), (X,))
    assert set(re.findall(r"i8\[[\d,]+\]", gradient)) <= {"i8[3,8,8]", "i8[1,3,8,8]", "i8[3,1,8,8]"}


CUT_OUT = {
    "one scale for all": (qpass.int8.per_tensor(), STACK),
    "codes that are decoded": (qpass.mxfp6, STACK),
    "rows that do not end with a byte": (qpass.int4, (3, 7, 7)),
}


@pytest.mark.parametrize("name", CUT_OUT)
def test_layers_that_no_kernel_can_read_in_place(name):
    weight, shape = CUT_OUT[name]
    q = qpass.transform(over(layer), qpass.Rule(path="**", weight=weight))
    w = random(*shape, seed=1)
    x = X[:, : shape[1]]
    stored = q.quantize(w, x)
    assert "a layer of" not in text(q, (stored, x))
    np.testing.assert_array_equal(jax.jit(q)(stored, x), jax.jit(q)(w, x))


@pytest.mark.parametrize("weight", [qpass.int8.grouped(5), qpass.nf4, qpass.int3], ids=str)
def test_short_groups_and_codes_with_a_table_are_read_in_place(weight):
    q = qpass.transform(over(layer), qpass.Rule(path="**", weight=weight))
    w = random(*STACK, seed=1)
    stored = q.quantize(w, X)
    assert "a layer of" in text(q, (stored, X))
    np.testing.assert_array_equal(jax.jit(q)(stored, X), jax.jit(q)(w, X))


def weights_written(kernel: Kernel, weight) -> list[str]:
    """Arrays of the size of one layer's codes that the compiled program writes."""
    n, k = 64, 96
    rules = qpass.Rule(path="**", weight=weight)
    model = over(lambda x, w: (x @ w @ jnp.ones((n, k)), None))
    q = qpass.transform(model, rules, kernels=(kernel, REFERENCE))
    w, x = random(3, k, n), random(1, k)
    program = jax.jit(q).lower(q.quantize(w, x), x).compile().as_text()
    arrays = re.findall(r"= ([su][48])\[([\d,]+)\]", program or "")
    packed = n * k // 2 if weight != qpass.int8 else n * k
    found = [(kind, math.prod(map(int, shape.split(",")))) for kind, shape in arrays]
    return [kind for kind, size in found if size == (packed if kind[1] == "8" else n * k)]


@pytest.mark.parametrize("weight", [qpass.int8, qpass.int4.grouped(32)], ids=str)
@pytest.mark.parametrize("kernel", [NATIVE_FLOAT, CPU], ids=lambda kernel: kernel.name)
def test_compiled_programs_write_no_layer_of_a_weight(kernel, weight):
    if kernel.local and why_not():
        pytest.skip(f"{kernel.name}: {why_not()}")
    assert not weights_written(kernel, weight)


def test_a_kernel_that_takes_no_stacks_gets_a_copy():
    assert weights_written(replace(CPU, run_stacked=None), qpass.int8)
