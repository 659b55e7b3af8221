"""What follows products is found, computed in their kernels, and left alone where it may not be."""

from dataclasses import replace
from functools import partial
from textwrap import dedent

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import qpass
from qpass.ops.followed import Followed
from qpass.passes import PASSES, FuseEpilogues, epilogue, join
from qpass_kernels import KERNELS, REFERENCE, Kernel
from qpass_kernels.kernel import fuses_all, run_whole
from tests.helpers import text
from tests.rewriting.oracle import INT8, random

W, X = random(8, 16, seed=1), random(4, 8, seed=2)
BIAS, OTHER = random(16, seed=3), random(4, 16, seed=4)


def run(product, *operands):
    """As a kernel that fuses would, by the reference."""
    return run_whole(product, REFERENCE.run, product.sums, *operands)


FUSING = Kernel("fusing", (), lambda p: None, run, fuses=fuses_all)
BEFORE = tuple(p for p in PASSES if p not in (epilogue, join))


def fused(fn, rules=INT8, kernels=(FUSING, REFERENCE)):
    return qpass.transform(fn, rules, kernels=kernels, passes=(*BEFORE, FuseEpilogues()))


def plain(fn, rules=INT8):
    return qpass.transform(fn, rules, kernels=(REFERENCE,), passes=BEFORE)


def notes(fn, *args, **how):
    return [note for d in fused(fn, **how).plan(*args).decisions for note in d.notes]


def gated(p, x):
    """Half a layer: a gated product, and a projection back."""
    h = jax.nn.silu(x @ p["gate"] + p["b"]) * (x @ p["up"])
    return x + h @ p["down"]


P = {
    "gate": random(8, 16, seed=5),
    "b": BIAS,
    "up": random(8, 16, seed=6),
    "down": random(16, 8, seed=7),
}


def test_before_and_after():
    def fn(w, x, b, r):
        return jax.nn.silu(x @ w + b) + r

    then = "then + bias, silu, + residual"
    q = fused(fn)
    args = (W, X, BIAS, OTHER)
    assert text(plain(fn), (plain(fn).quantize(*args), *args[1:])) == dedent("""
        in a:i8[16,8] b:f32[16,1] c:f32[4,8] d:f32[16] e:f32[4,16]
        f:f32[4,16] = quantized_dot c a b (i8 x i8 -> f32)
        g:f32[1,16] = broadcast_in_dim d (1)
        h:f32[4,16] = add f g
        i:f32[4,16] = jit h (name=silu)
            in a:f32[4,16]
            b:f32[4,16] = logistic a
            c:f32[4,16] = mul a b
            out c
        j:f32[4,16] = add i e
        out j
        """).strip("\n")
    assert text(q, (q.quantize(*args), *args[1:])) == dedent(f"""
        in a:i8[16,8] b:f32[16,1] c:f32[4,8] d:f32[16] e:f32[4,16]
        f:f32[1,16] = broadcast_in_dim d (1)
        g:f32[4,16] = quantized_dot_followed c a b f e (i8 x i8 -> f32, {then})
        out g
        """).strip("\n")


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in ACTIVATIONS), ("gelu", "bfloat16")]
)
def test_activations_are_found_by_what_they_compute(name, dtype):
    def fn(w, x, b, g, r):
        return ACTIVATIONS[name](x @ w + b) * g + r

    args = [a.astype(dtype) for a in (W, X, BIAS, OTHER, 2 * OTHER)]
    assert notes(fn, *args) == [f"then + bias, {name}, * other, + residual"]
    got, want = (jax.jit(q(fn))(*args) for q in (fused, plain))
    assert got.dtype == dtype
    bound = 4 * jnp.finfo(dtype).eps * (1 + abs(want.astype(jnp.float32)).max())
    assert abs(got.astype(jnp.float32) - want.astype(jnp.float32)).max() <= bound


@pytest.mark.parametrize(
    ("fn", "note"),
    [
        (lambda w, x: jnp.maximum(x @ w, 0), "relu"),
        (lambda w, x: (lambda y: jax.nn.sigmoid(y) * y)(x @ w), "silu"),
        (lambda w, x: jax.jit(lambda y: y * lax.logistic(y))(x @ w), "silu"),
        (lambda w, x: OTHER + x @ w, "+ residual"),
        (lambda w, x: (jax.nn.silu(x @ w) + BIAS) * OTHER, "silu"),
        (lambda w, x: jax.nn.relu((x @ w).astype("bfloat16")).astype("float32"), "relu"),
        (lambda w, x: (x @ w) * OTHER + BIAS, "* other"),
        (lambda w, x: jnp.broadcast_to(BIAS, (4, 16)) + x @ w, "+ bias"),
        (
            lambda w, x: jnp.einsum("mk,khd->mhd", x, w.reshape(8, 4, 4)) + BIAS.reshape(4, 4),
            "+ bias",
        ),
        (lambda w, x: jnp.einsum("kn,mk->nm", w, x) + BIAS[:, None], "+ bias"),
        (lambda w, x: jnp.einsum("kn,mk->nm", w, x) + OTHER.T, "+ residual"),
    ],
)
def test_links_and_where_they_end(fn, note):
    assert notes(fn, W, X) == [f"then {note}"]
    np.testing.assert_allclose(fused(fn)(W, X), plain(fn)(W, X), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda w, x: jnp.tanh(x @ w),
        lambda w, x: (lambda y: y * jnp.tanh(y))(x @ w),
        lambda w, x: jax.nn.leaky_relu(x @ w),
        lambda w, x: (lambda y: y * jax.nn.sigmoid(1.702 * y))(x @ w),
        lambda w, x: 2 * (x @ w) + 1,
        lambda w, x: (x @ w) + x[:, :1],
        lambda w, x: jnp.maximum(x @ w, -1.0),
        lambda w, x: (x @ w).astype("bfloat16"),
        lambda w, x: x @ w,
    ],
)
def test_what_no_kernel_computes_stays(fn):
    assert notes(fn, W, X) == []
    assert jnp.array_equal(fused(fn)(W, X), plain(fn)(W, X))


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda w, x: (lambda y: (y, y + OTHER))(x @ w), "its result is read by others too"),
        (lambda w, x: (lambda y: jax.nn.silu(y) + jnp.tanh(y))(x @ w), "read by others too"),
    ],
)
def test_a_value_that_others_read_is_left_alone(fn, reason):
    (note,) = notes(fn, W, X)
    assert note.startswith("then ")
    assert reason in note
    for got, want in zip(*map(jax.tree.leaves, (fused(fn)(W, X), plain(fn)(W, X))), strict=True):
        assert jnp.array_equal(got, want)


def test_zero_points_come_first():
    rule = qpass.Rule(weight="int8", act="int8 asym")
    (note,) = notes(lambda w, x: x @ w + OTHER, W, X, rules=rule)
    assert note == "then + residual: not in the kernel: zero points are added to the product first"


def test_a_kernel_that_cannot_is_named():
    table = (replace(FUSING, fuses=lambda p: p.epilogue.activation != "silu"), REFERENCE)
    found = notes(lambda w, x: jax.nn.silu(x @ w), W, X, kernels=table)
    assert found == ["then silu: not in the kernel: fusing does not compute it"]


def test_nothing_happens_where_no_kernel_of_the_platform_fuses():
    plan = qpass.transform(gated, INT8).plan(P, X)
    assert not any(isinstance(region.action, Followed) for region in plan.regions)
    assert all("then" not in note for d in plan.decisions for note in d.notes)


def test_a_gated_layer_for_hopper():
    shapes = {"gate": (512, 1024), "b": (1024,), "up": (512, 1024), "down": (1024, 512)}
    big = {k: jax.ShapeDtypeStruct(shape, "bfloat16") for k, shape in shapes.items()}
    x = jax.ShapeDtypeStruct((64, 512), "bfloat16")
    plan = qpass.transform(gated, INT8, kernels=KERNELS).plan(big, x, platform="cuda")
    found = {
        d.site.id: [note for note in d.notes if note.startswith("then")] for d in plan.decisions
    }
    assert found["gate/dot_general.0"] == ["then + bias, silu, * other"]
    assert found["up/dot_general.0"] == []
    assert found["down/dot_general.0"] == ["then + residual"]


def test_everywhere_computes_it_after_kernels_that_cannot():
    q = qpass.transform(gated, INT8, passes=(*BEFORE, FuseEpilogues(everywhere=True)))
    assert len(q.plan(P, X).regions) == 2
    np.testing.assert_allclose(q(P, X), qpass.transform(gated, INT8)(P, X), rtol=1e-4, atol=1e-4)


def test_float_and_stored_weights_give_the_same_bits():
    q = fused(gated)
    assert jnp.array_equal(q(P, X), q(q.quantize(P, X), X))


def test_derivatives_are_those_of_the_equations():
    loss = lambda q: lambda p, x: (q(p, x) ** 2).sum()  # noqa: E731
    values = [jax.jit(jax.value_and_grad(loss(q(gated)), (0, 1)))(P, X) for q in (fused, plain)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *values)
    directions = jax.tree.map(jnp.ones_like, (P, X))
    jvp = lambda q: jax.jit(lambda p, x: jax.jvp(q(gated), (p, x), directions))  # noqa: E731
    forward = [jvp(q)(P, X) for q in (fused, plain)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *forward)
    stored = fused(gated).quantize(P, X)
    by_x = [jax.jit(jax.grad(loss(q(gated)), 1, allow_int=True))(stored, X) for q in (fused, plain)]
    np.testing.assert_allclose(*by_x, rtol=1e-4, atol=1e-4)


def layers(p, x):
    """The gated layer, twice, in a scan over stacked weights."""
    return lax.scan(lambda x, p: (gated(p, x), None), x, p)[0]


def test_inside_scan_jit_remat_and_vmap():
    stack = jax.tree.map(lambda a: jnp.stack([a, a / 2]), P)
    q = fused(layers)
    assert [n for d in q.plan(stack, X).decisions for n in d.notes if "then" in n]
    stored = q.quantize(stack, X)
    want = jax.jit(plain(layers))(stored, X)
    np.testing.assert_allclose(jax.jit(q)(stored, X), want, rtol=1e-4, atol=1e-4)
    for how in (jax.jit, jax.checkpoint):
        wrapped = lambda p, x, how=how: how(gated)(p, x)  # noqa: E731
        got, want = (jax.jit(q(wrapped))(P, X) for q in (fused, plain))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_vmap(axes):
    p, x = (jax.tree.map(lambda a: jnp.stack([a, a / 2, -a]), v) for v in (P, X))
    args = (P if axes[0] is None else p, X if axes[1] is None else x)
    got, want = (jax.jit(jax.vmap(q(gated), axes))(*args) for q in (fused, plain))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_vmap_over_what_flows_through_a_stack():
    p, x = (jax.tree.map(lambda a: jnp.stack([a, a / 2]), v) for v in (P, X))
    stored = fused(layers).quantize(p, X)
    got, want = (jax.jit(jax.vmap(partial(q(layers), stored)))(x) for q in (fused, plain))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_export_lowers_for_every_platform():
    q = fused(gated)
    stored = q.quantize(P, X)
    exported = export.export(jax.jit(q), platforms=("cpu", "cuda", "tpu"))(stored, X)
    again = export.deserialize(exported.serialize()).call(stored, X)
    np.testing.assert_allclose(again, q(stored, X), rtol=1e-5, atol=1e-5)
