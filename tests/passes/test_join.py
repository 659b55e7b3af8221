"""Join: products of one activation become one call, with the numbers of separate ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.graph.text import to_text
from qpass.passes import PASSES, join
from qpass_kernels import REFERENCE, Kernel
from qpass_kernels.reference import run as reference_run
from tests.rewriting.oracle import random

APART = tuple(apply for apply in PASSES if apply is not join)
W = {name: random(64, n, seed=n) for name, n in (("q", 48), ("k", 16), ("v", 24), ("down", 32))}
X = random(3, 64, seed=7)


def layer(p, x):
    """Three products of one value and one of another."""
    h = jnp.tanh(x)
    q, k, v = (h @ p[name] for name in "qkv")
    return q, k * 2, (x + h) @ p["down"] * v.sum()


def both(fn, *rules, **options):
    return (qpass.transform(fn, rules, passes=p, **options) for p in (PASSES, APART))


def same(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def test_before_and_after():
    joined, apart = both(lambda p, x: (x @ p["q"], x @ p["k"]), qpass.Rule(weight="int8"))
    p = {"q": W["q"], "k": W["k"]}
    text = lambda q: to_text(jax.make_jaxpr(q)(q.quantize(p, X), X)).splitlines()  # noqa: E731
    assert text(apart) == [
        "in a:i8[16,64] b:f32[16,1] c:i8[48,64] d:f32[48,1] e:f32[3,64]",
        "f:f32[3,48] = quantized_dot e c d (f32 x i8 -> f32)",
        "g:f32[3,16] = quantized_dot e a b (f32 x i8 -> f32)",
        "out f g",
    ]
    assert text(joined) == [
        "in a:i8[16,64] b:f32[16,1] c:i8[48,64] d:f32[48,1] e:f32[3,64]",
        "f:f32[3,48] g:f32[3,16] = quantized_dots e c d a b (2 products with one left operand)",
        "out f g",
    ]


SCHEMES = [("int8", "int8"), ("int4 g32", None), ("int4 g32", "int8 g16"), ("nf4 g32", None)]


@pytest.mark.parametrize(("weight", "act"), SCHEMES, ids=str)
def test_joined_products_have_the_bits_of_separate_ones(weight, act):
    joined, apart = both(layer, qpass.Rule(weight=weight, act=act))
    assert [len(r.equations) for r in joined.plan(W, X).regions] == [3]
    stored = joined.quantize(W, X)
    wanted = jax.jit(apart)(stored, X)
    same(jax.jit(joined)(stored, X), wanted)
    if act == "int8":
        same(jax.jit(joined)(W, X), wanted)


def deep(p, x):
    """Layers in a scan; three products of one value, of which two are short."""
    body = lambda x, w: (x + sum(jnp.tanh(x @ w[name]).sum() for name in "qkv"), None)  # noqa: E731
    return lax.scan(body, x, p)[0]


STACK = {name: jnp.stack([W[name], -W[name]]) for name in "qkv"}


def test_layers_of_a_scan_and_their_gradients():
    """A gradient of the value that is shared is a sum, whose terms come in another order."""
    joined, apart = both(deep, qpass.Rule(weight="int8", act="int8"))
    stored = joined.quantize(STACK, X)
    text = to_text(jax.make_jaxpr(joined)(stored, X))
    assert "(3 products with one left operand, each by a layer of 2)" in text
    same(jax.jit(joined)(stored, X), jax.jit(apart)(stored, X))
    grad = lambda q: jax.jit(jax.grad(lambda p, x: q(p, x).sum(), (0, 1)))(STACK, X)  # noqa: E731
    for a, b in zip(*(jax.tree.leaves(grad(q)) for q in (joined, apart)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)], ids=str)
def test_mapped_products_by_kernels_that_join_nothing(axes):
    rule, mapped = qpass.Rule(weight="int8", act="int8"), {"q": W["q"], "k": W["k"]}
    pair = lambda p, x: (x @ p["q"], x @ p["k"])  # noqa: E731
    joined, apart = both(pair, rule, kernels=(REFERENCE,))
    stored = joined.quantize(mapped, X)
    args = [jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), v) for v in (stored, X)]
    args = [v if axis == 0 else w for v, w, axis in zip(args, (stored, X), axes, strict=True)]
    same(*(jax.jit(jax.vmap(q, axes))(*args) for q in (joined, apart)))


def test_a_kernel_is_called_once_with_all_weights():
    calls = []

    def run_joined(products, lhs, lhs_scale, rights):
        calls.append([(p.n, lhs.dtype.name) for p in products])
        return tuple(
            reference_run(p, lhs, lhs_scale, codes[index], scale[index])
            for p, (codes, scale, index) in zip(products, rights, strict=True)
        )

    mine = Kernel("mine", (), lambda p: None, reference_run, run_joined=run_joined)
    joined, apart = both(layer, qpass.Rule(weight="int8", act="int8"), kernels=(mine,))
    stored = joined.quantize(W, X)
    same(jax.jit(joined)(stored, X), jax.jit(apart)(stored, X))
    assert calls == [[(48, "int8"), (16, "int8"), (24, "int8")]]


def test_equal_casts_are_one_value():
    def cast(p, x):
        return tuple(x.astype(jnp.bfloat16) @ p[name] for name in "qk")

    p = {name: W[name].astype(jnp.bfloat16) for name in "qk"}
    joined, apart = both(cast, qpass.Rule(weight="int8", act="int8"))
    assert len(joined.plan(p, X).regions) == 1
    stored = joined.quantize(p, X)
    same(jax.jit(joined)(stored, X), jax.jit(apart)(stored, X))


def test_the_plan_says_so():
    (joined,) = (q for q in both(layer, qpass.Rule(weight="int8")) if q.options.passes == PASSES)
    plan = joined.plan(W, X)
    assert plan["q/dot_general.0"].notes == ("joined with k/dot_general.0, v/dot_general.0",)
    assert plan["down/dot_general.0"].notes == ()


def test_products_between_which_something_depends_are_not_joined():
    def crossed(p, x):
        return jnp.where((x @ p["q"]).sum() > 0, x @ p["k"], 0)

    def dependent(p, x):
        scale = (x @ p["q"]).sum()
        return x @ lax.optimization_barrier((p["k"], scale))[0]

    rule = qpass.Rule(weight="int8")
    p = {"q": W["q"], "k": W["k"]}
    assert len(qpass.transform(crossed, [rule]).plan(p, X).regions) == 1
    q = qpass.transform(dependent, [rule])
    plan = q.plan(p, X)
    assert plan.regions == ()
    (note,) = [n for n in plan["q/dot_general.0"].notes if "joined" in n]
    assert note == (
        "not joined with k/dot_general.0: another equation reads a result of one of them and gives "
        "an operand of another"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (qpass.Rule(path="q", weight="int8"), qpass.Rule(path="k", weight="int4 g32")),
        (qpass.Rule(path="q", weight="int8", act="int8"), qpass.Rule(path="k", weight="int8")),
        (qpass.Rule(path="q", weight="int8"), qpass.Rule(path="k", keep=True)),
    ],
    ids=["weights", "activations", "float"],
)
def test_other_schemes_stay_apart(first, second):
    p = {"q": W["q"], "k": W["k"]}
    q = qpass.transform(lambda p, x: (x @ p["q"], x @ p["k"]), [first, second])
    assert q.plan(p, X).regions == ()


@pytest.mark.parametrize("act", ["int8 asym", "int8 static", "int8 sr8"])
def test_activations_that_are_quantized_by_each_product_stay_apart(act):
    q = qpass.transform(layer, [qpass.Rule(weight="int8", act=act)])
    assert q.plan(W, X).regions == ()
