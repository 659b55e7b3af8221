"""Quantized convolutions: what they give is the convolution of the values that codes stand for."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.errors import RuleError
from qpass.numerics import as_quantizer, quantize
from qpass.ops.conv import CONV
from qpass.ops.conv_by_kernel import ByKernel
from qpass.ops.conv_by_xla import ByIntegers, ByTaps, ByXla
from qpass.ops.conv_form import Form
from qpass.ops.conv_operands import quantized
from qpass.ops.operations import Quantized, on_the_fly
from qpass.ops.weights import encode_weight
from qpass_kernels import KERNELS
from tests.ops.conv_oracle import CASES, NHWC, Case, convolved

PLAIN, TRANSPOSED = CASES["2-D"], CASES["transposed"]
INT8 = qpass.Rule(weight="int8", act="int8")
RULES = {
    "int4 weight-only": qpass.Rule(weight="int4"),
    "by example": INT8,
    "zero points": qpass.Rule(weight="uint8 asym", act="int8 asym"),
    "fp8": qpass.Rule(weight="fp8_e4m3 tensor", act="fp8_e5m2 tensor"),
    "table": qpass.Rule(weight="nf4 channel", act="int8"),
}


def arrays(case: Case, seed: int = 0) -> tuple[dict, jax.Array]:
    """Outputs and examples of different sizes, all inputs far from zero (unlike the padding)."""
    kx, kw = jax.random.split(jax.random.key(seed))
    w = jax.random.normal(kw, case.w)
    outputs = [d for d, n in enumerate(case.w) if case.axes[1][d] == "O"]
    wide = jnp.expand_dims(2.0 ** jnp.arange(case.w[outputs[0]]), range(1, 2))
    shape = [n if d in outputs else 1 for d, n in enumerate(case.w)]
    x = jax.random.uniform(kx, case.x, minval=1.0, maxval=3.0)
    examples = [n if letter == "N" else 1 for letter, n in zip(case.axes[0], case.x, strict=True)]
    size = jnp.reshape(1.0 + 4 * jnp.arange(max(examples)), examples)
    return {"w": w * jnp.reshape(wide, shape)}, x * size


def near(got, want, bound=2e-6):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert abs(got - want).max() <= bound * abs(want).max()


def action(weight: str, act: str | None) -> Quantized:
    return Quantized(qpass.Rule(weight=weight, act=act).scheme, 1)


def by_forms(case: Case, kinds: Sequence[type[Form]], weight: str, act: str | None):
    """What each form gives, and the convolution of what both operands stand for."""
    params, x = arrays(case)
    (eqn,) = jax.make_jaxpr(case.run)(params, x).eqns[-1:]
    decision = Quantized(qpass.Rule(weight=weight, act=act).scheme, 1)
    spec = CONV.spec(decision, eqn, KERNELS)

    @jax.jit
    def run(params, x):
        w = encode_weight(params["w"], on_the_fly(decision, eqn))
        left = quantized(spec.dot, x, w)
        seen = left if act is None else left.dequantize()
        return [kind(spec.dot, spec.window)(left, w) for kind in kinds], seen, w.dequantize()

    results, x, w = run(params, x)
    return results, convolved(case, x, w)


@pytest.mark.parametrize("name", CASES)
def test_every_form_is_the_convolution_of_what_codes_stand_for(name):
    """With zero points: padding with anything but their value would be far off."""
    kinds = [ByKernel, ByXla, ByTaps] if name.startswith("depthwise") else [ByKernel, ByXla]
    results, want = by_forms(CASES[name], kinds, "int8 asym", "int8 asym")
    for got in results:
        near(got, want)
    (exact,), want = by_forms(CASES[name], [ByIntegers], "int8", "uint8 asym")
    near(exact, want)


def test_weights_alone_by_every_form():
    kinds = [ByKernel, ByXla, ByTaps]
    results, want = by_forms(CASES["depthwise, two each"], kinds, "int4", None)
    for got in results:
        near(got, want)


@pytest.mark.parametrize("name", RULES)
def test_float_and_stored_weights_of_a_transformed_function(name):
    params, x = arrays(PLAIN)
    q = qpass.transform(PLAIN.run, RULES[name])
    stored = q.quantize(params, x)
    assert isinstance(stored["w"], qpass.QTensor)
    act = RULES[name].scheme.act
    seen = x if act is None else quantize(x, act, (1, 2, 3)).dequantize()
    program = jax.jit(q)
    got = program(params, x)
    near(got, convolved(PLAIN, seen, stored["w"].dequantize()))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(program(stored, x)))


def test_scales_are_of_output_channels_whatever_the_order_of_axes():
    for name in ("odd order", "groups"):
        case = CASES[name]
        params, x = arrays(case)
        scale = qpass.transform(case.run, INT8).quantize(params, x)["w"].scale
        assert scale.size == case.w[case.axes[1].index("O")]


def test_padding_has_the_value_of_the_zero_point_of_a_static_range():
    """The range of a ReLU6: codes of zero are -128, so that zero codes would mean three."""
    case = Case((2, 6, 6, 4), (3, 3, 4, 5), NHWC)
    params, _ = arrays(case)
    x = jax.random.uniform(jax.random.key(4), case.x, maxval=6.0)
    q = qpass.transform(case.run, qpass.Rule(weight="int8", act="int8 asym static"))
    static = q.with_ranges(qpass.ranges(q.capture(params, x)))
    stored = static.quantize(params, x)
    bounds = (jnp.zeros((1,) * 4), jnp.full((1,) * 4, jnp.max(x)))
    seen = quantize(x, as_quantizer("int8 tensor asym"), (1, 2, 3), bounds=bounds).dequantize()
    assert abs(np.asarray(seen) - np.asarray(x)).max() < 0.013
    near(jax.jit(static)(stored, x), convolved(case, seen, stored["w"].dequantize()))


@pytest.mark.parametrize("name", ["transposed", "depthwise", "odd order"])
def test_gradients_are_those_of_the_float_convolution_of_what_codes_stand_for(name):
    case = CASES[name]
    params, x = arrays(case)
    q = qpass.transform(case.run, INT8)
    g = jax.random.normal(jax.random.key(5), jax.eval_shape(case.run, params, x).shape)

    def slopes(run, params, x):
        return jax.vjp(run, params, x)[1](g)

    dw, dx = jax.jit(partial(slopes, q))(params, x)
    stored = q.quantize(params, x)
    contract = tuple(d for d, letter in enumerate(case.axes[0]) if letter != "N")
    seen = quantize(x, as_quantizer("int8"), contract).dequantize()
    want = jax.jit(partial(slopes, case.run))({"w": stored["w"].dequantize()}, seen)
    near(dw["w"], want[0]["w"], 1e-5)
    near(dx, want[1], 1e-5)
    near(jax.jit(jax.grad(lambda x: jnp.vdot(q(stored, x), g)))(x), want[1], 1e-5)


def test_static_activations_that_are_clipped_have_no_gradient_where_masked():
    params, x = arrays(PLAIN)
    q = qpass.transform(PLAIN.run, qpass.Rule(weight="int8", act="int8 masked static"))
    narrow = q.with_ranges({"w/conv_general_dilated.0": (-2.0, 2.0)})
    dx = jax.jit(jax.grad(lambda x: jnp.sum(narrow(params, x))))(x)
    assert np.all(np.asarray(dx)[np.asarray(x) > 2.1] == 0)
    assert np.any(np.asarray(dx) != 0)


@pytest.mark.parametrize(("name", "mapped"), [("2-D", "x"), ("2-D", "both"), ("depthwise", "w")])
def test_vmap_is_a_loop(name, mapped):
    case = CASES[name]
    params, x = arrays(case)
    both = {"w": params["w"], "x": x}
    axes = {k: 0 if mapped in (k, "both") else None for k in both}
    many = {k: v if axes[k] is None else jnp.stack([v, -2 * v]) for k, v in both.items()}
    q = qpass.transform(case.run, qpass.Rule(weight="int8", act="int8 asym"))
    got = jax.jit(jax.vmap(lambda a: q({"w": a["w"]}, a["x"]), (axes,)))(many)
    program = jax.jit(q)
    for i in range(2):
        one = {k: v if axes[k] is None else v[i] for k, v in many.items()}
        near(got[i], program({"w": one["w"]}, one["x"]))


def test_layers_of_a_scan_rematerialized_and_a_mapped_convolution_inside():
    case = Case((2, 5, 5, 3), (3, 3, 3, 3), NHWC)
    w = jnp.stack([arrays(case, seed)[0]["w"] / 50 for seed in range(3)])
    _, x = arrays(case)

    def model(params, x):
        @jax.checkpoint
        def layer(x, w):
            return jax.vmap(lambda image: case.run({"w": w}, image[None])[0])(x), None

        return lax.scan(layer, x, params["w"])[0]

    q = qpass.transform(model, INT8)
    stored = q.quantize({"w": w}, x)
    assert stored["w"].scale.size == 3 * 3
    got = jax.jit(q)(stored, x)
    one = jax.jit(qpass.transform(case.run, INT8))
    want = x
    for layer in w:
        want = one({"w": layer}, want)
    near(got, want)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(q(p, x))))({"w": w})
    assert np.all(np.isfinite(slopes["w"]))
    assert np.any(np.asarray(slopes["w"]) != 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(dtype):
    params, x = jax.tree.map(lambda a: (a / 8).astype(dtype), arrays(PLAIN))
    for rule, bound in ((INT8, 0.02), (RULES["int4 weight-only"], 0.2)):
        q = qpass.transform(PLAIN.run, rule)
        got = jax.jit(q)(q.quantize(params, x), x)
        assert got.dtype == dtype
        near(got.astype(jnp.float32), PLAIN.run(params, x).astype(jnp.float32), bound)


def test_plan_names_sizes_forms_and_kernels():
    def model(params, x):
        x = CASES["depthwise"].run({"w": params["depth"]}, x)
        return CASES["point"].run({"w": params["point"]}, x[:, :5, :4])

    params = {"depth": jnp.ones((3, 3, 1, 6)), "point": jnp.ones((1, 1, 6, 5))}
    q = qpass.transform(model, INT8)
    depth, point = q.plan(params, jnp.ones((2, 6, 5, 6))).rows
    assert depth.id == "depth/conv_general_dilated.0"
    assert depth.equation == "NHWC,HWIO->NHWC 3x3, padding 1:1x1:1, groups 6"
    assert point.equation == "NHWC,HWIO->NHWC 1x1"
    assert (depth.kernel, point.kernel) == ("xla", "xla")
    assert depth.bytes_after == 54 + 6 * 4
    alone = qpass.transform(PLAIN.run, qpass.Rule(weight="int8")).plan(*arrays(PLAIN))
    assert alone.rows[0].slow.startswith("no faster than float32")
    (wide,) = q_of_point().rows
    assert (wide.kernel, wide.slow) == ("cpu-native-int", "")


def q_of_point():
    case = Case((1, 14, 14, 256), (1, 1, 256, 256), NHWC)
    return qpass.transform(case.run, INT8).plan(*arrays(case))


def by_examples(params, x):
    return lax.conv_general_dilated(
        x, params["w"], (1, 1), "SAME", dimension_numbers=NHWC, batch_group_count=2
    )


def of_a_weight(params, x):
    return lax.conv_general_dilated(
        params["w"], x, (1, 1), "SAME", dimension_numbers=("HWNC", "IHWO", "NHWC")
    )


REFUSED = {
    "by examples": (by_examples, INT8, "batch_group_count 2: each kernel sees other examples"),
    "of a weight": (of_a_weight, INT8, "its weight is the operand that windows are taken of"),
    "groups of weights": (
        Case((2, 6, 6, 4), (3, 3, 4, 4), NHWC).run,
        qpass.Rule(weight="int4 g2"),
        "the weight would have scales along axis 2, .*one for each output channel",
    ),
    "channels of activations": (
        Case((2, 6, 6, 4), (3, 3, 4, 4), NHWC).run,
        qpass.Rule(weight="int8", act="int8 axis3"),
        "the activation would have scales along axis 3, .*one for each example",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_and_the_way_out(name):
    fn, rule, reason = REFUSED[name]
    shapes = {"by examples": (2, 6, 6, 4), "of a weight": (4, 6, 6, 4)}
    params, x = {"w": jnp.ones((3, 3, 4, 4))}, jnp.ones(shapes.get(name, (2, 6, 6, 4)))
    with pytest.raises(RuleError, match=f"conv_general_dilated.0: {reason}"):
        qpass.transform(fn, rule).plan(params, x)


@pytest.mark.parametrize("name", ["2-D", "depthwise", "point"])
def test_an_exported_convolution_gives_the_same(name):
    """As its own form for each platform; on the one at hand the same bits."""
    params, x = arrays(CASES[name])
    q = qpass.transform(CASES[name].run, qpass.Rule(weight="int8", act="int8"))
    qparams = q.quantize(params, x)
    call = jax.jit(lambda codes, x: q(qparams | {"w": replace(qparams["w"], codes=codes)}, x))
    codes = qparams["w"].codes
    exported = jax.export.export(call, platforms=("cpu", "cuda", "tpu"))(codes, x)
    loaded = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(loaded.call(codes, x), call(codes, x))


def test_gradients_outside_stay_float_and_say_so():
    params, x = arrays(PLAIN)
    rule = qpass.Rule(weight="int8", act="int8", grad="int8")
    (row,) = qpass.transform(PLAIN.run, rule).plan(params, x).rows
    assert [note.split(":")[0] for note in row.notes] == [
        "dlhs stays float",
        "drhs stays float",
    ]
    grads = [
        jax.grad(lambda p, r=r: jnp.sum(qpass.transform(PLAIN.run, r)(p, x) ** 2))(params)
        for r in (rule, INT8)
    ]
    np.testing.assert_array_equal(grads[0]["w"], grads[1]["w"])


def test_gradients_inside_stay_float_and_say_so():
    def step(params, x):
        return jax.grad(lambda p, x: jnp.sum(PLAIN.run(p, x) ** 2), (0, 1))(params, x)

    params, x = arrays(PLAIN)
    rules = [qpass.Rule(role=("dlhs", "drhs"), weight="int8", act="int8"), INT8]
    q = qpass.transform(step, rules)
    found = {d.site.role: d for d in q.plan(params, x).decisions}
    assert found["drhs"].reason == "the gradient of a convolution's kernel stays float"
    assert found["dlhs"].action is not None
    both = (jax.tree.leaves(fn(params, x)) for fn in (q, step))
    for got, want in zip(*both, strict=True):
        near(got, want, 0.03)
