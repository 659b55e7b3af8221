"""Where other quantization libraries are known to fail: a test named after each failure."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl

import qpass
from tests.programs import CASES, WAYS_TO_MULTIPLY, normal, rules

INT8 = rules("int8", "int8")


@jax.jit
def shared_helper(x, w):
    return x @ w


def helper_model(p, x):
    return shared_helper(x, p["a"]) + shared_helper(x, p["b"])


def helper_arguments():
    rng = np.random.default_rng(0)
    return {"a": normal(rng, (16, 8)), "b": normal(rng, (16, 8))}, normal(rng, (4, 16))


def quantized_weights(fn, *args, given=INT8):
    plan = qpass.transform(fn, given).plan(*args)
    return {d.site.weight_path for d in plan.decisions if d.action}


def near(got, wanted, bound=0.05):
    np.testing.assert_array_equal(np.isfinite(got), True)
    assert 0 < np.linalg.norm(got - wanted) < bound * np.linalg.norm(wanted)


class TestJaxCaches:
    """Interception sees a function only when JAX traces it; a cached trace passes it by."""

    def test_a_float_function_traced_first_is_still_quantized(self):
        args = helper_arguments()
        exact = helper_model(*args)
        near(qpass.transform(helper_model, INT8)(*args), exact)

    def test_a_float_call_after_a_quantized_one_stays_float(self):
        args = helper_arguments()
        exact = np.asarray(helper_model(*args))
        qpass.transform(helper_model, INT8)(*args)
        jax.clear_caches()
        qpass.jit(helper_model, rules=INT8)(*args)
        np.testing.assert_array_equal(helper_model(*args), exact)

    def test_an_int4_model_after_an_int8_model_sharing_a_jitted_helper(self):
        args = helper_arguments()
        coarse, fine = rules("int4"), rules("int8")
        alone = qpass.transform(helper_model, coarse)(*args)
        qpass.jit(helper_model, rules=fine)(*args)
        np.testing.assert_array_equal(qpass.transform(helper_model, coarse)(*args), alone)

    def test_a_rule_for_one_layer_leaves_the_other_through_a_shared_helper(self):
        args = helper_arguments()
        only_a = rules("int8", path="a")
        assert quantized_weights(helper_model, *args, given=only_a) == {"a"}
        qparams = qpass.transform(helper_model, only_a).quantize(*args)
        assert isinstance(qparams["a"], qpass.QTensor)
        assert qparams["b"] is args[0]["b"]


class TestModelTypes:
    """Only modules of one framework were accepted."""

    def test_plain_functions_partials_methods_and_callable_objects(self):
        class Model:
            def __call__(self, p, x):
                return x @ p["w"]

            apply = __call__

        params, x = CASES["matmul"].arguments()
        wanted = qpass.transform(CASES["matmul"].fn, INT8)(params, x)
        partial = functools.partial(lambda scale, p, x: x @ p["w"] * scale, 1.0)
        for fn in (Model(), Model().apply, partial, lambda p, x: x @ p["w"]):
            np.testing.assert_array_equal(qpass.transform(fn, INT8)(params, x), wanted)

    def test_a_pytree_module_as_the_parameters(self):
        """As in Equinox: the model itself is the tree of its arrays."""

        @jax.tree_util.register_dataclass
        @dataclasses.dataclass
        class Linear:
            weight: jax.Array
            bias: jax.Array

            def __call__(self, x):
                return self.weight @ x + self.bias

        rng = np.random.default_rng(0)
        model, x = Linear(normal(rng, (8, 16)), jnp.zeros(8)), normal(rng, (16, 3))[:, 0]
        q = qpass.transform(lambda m, x: m(x), INT8)
        stored = q.quantize(model, x)
        assert isinstance(stored.weight, qpass.QTensor)
        np.testing.assert_array_equal(q(stored, x), q(model, x))


class TestOtherWaysToMultiply:
    """Products written without the one function that was patched were never seen, or crashed."""

    @pytest.mark.parametrize("fn", WAYS_TO_MULTIPLY.values(), ids=WAYS_TO_MULTIPLY)
    def test_is_seen_and_served(self, fn):
        rng = np.random.default_rng(0)
        params = {"w": normal(rng, (16, 12)), "v": normal(rng, (12, 12))}
        x = normal(rng, (4, 16))
        q = qpass.transform(fn, [qpass.Rule(path="w", weight="int8", act="int8")])
        qparams = q.quantize(params, x)
        assert isinstance(qparams["w"], qpass.QTensor)
        near(q(qparams, x), fn(params, x))

    def test_code_outside_of_any_module(self):
        def fn(p, x):
            return jnp.tanh(CASES["matmul"].fn(p, x)) @ p["outside"]

        rng = np.random.default_rng(0)
        params = {"w": normal(rng, (16, 8)), "outside": normal(rng, (8, 4))}
        assert quantized_weights(fn, params, normal(rng, (2, 16))) == {"w", "outside"}

    def test_convolutions_do_not_crash_and_are_listed(self):
        def fn(p, x):
            return jnp.convolve(x @ p["w"], p["kernel"], mode="same")

        params = {"w": jnp.ones((16, 8)), "kernel": jnp.ones(3)}
        q = qpass.transform(fn, INT8)
        reasons = {row.op: row.reason for row in q.plan(params, jnp.ones(16)).rows}
        assert reasons["dot_general"] == ""
        assert reasons["conv_general_dilated"] == "no quantized form of conv_general_dilated"
        np.testing.assert_allclose(q(params, jnp.ones(16)), fn(params, jnp.ones(16)), rtol=1e-5)

    def test_ragged_products_do_not_crash_and_are_listed(self):
        def fn(p, x, sizes):
            return lax.ragged_dot(x, p["experts"], sizes) @ p["w"]

        params = {"experts": jnp.ones((2, 8, 8)), "w": jnp.ones((8, 8))}
        args = jnp.ones((4, 8)), jnp.array([1, 3])
        q = qpass.transform(fn, INT8)
        qparams = q.quantize(params, *args)
        assert not isinstance(qparams["experts"], qpass.QTensor)
        np.testing.assert_allclose(q(qparams, *args), fn(params, *args), rtol=1e-5)

    def test_comparison_inside_scan_leaks_no_tracer(self):
        found = qpass.transform(CASES["scanned"].fn, INT8).compare(*CASES["scanned"].arguments())
        assert len(next(iter(found.layers.values()))) == 3


class TestStoredWeights:
    """Stored weights were a TypeError in ordinary expressions, or silently float."""

    @pytest.mark.parametrize(
        "read",
        [lambda w: w * 2, lambda w: w + 0, lambda w: w.sum(0) * w, jnp.abs, lambda w: w**2],
        ids=["scaled", "plus zero", "summed", "abs", "squared"],
    )
    def test_a_weight_in_any_expression(self, read):
        def fn(p, x):
            return x @ p["w"] + read(p["w"])[:4].sum()

        params, x = CASES["matmul"].arguments()
        q = qpass.transform(fn, INT8)
        assert "also read by" in q.plan(params, x).decisions[0].notes[0]
        near(q(q.quantize(params, x), x), fn(params, x))

    @pytest.mark.parametrize("name", ["weight left", "scanned"])
    def test_weights_on_the_left_and_in_stacks_are_quantized(self, name):
        case = CASES[name]
        args = case.arguments()
        assert quantized_weights(case.fn, *args) == {"w"}
        assert isinstance(qpass.transform(case.fn, INT8).quantize(*args)["w"], qpass.QTensor)


class TestWeightsByDataflow:
    """Weights were recognized by their shapes."""

    def test_batch_and_input_and_output_of_one_size(self):
        def fn(p, x):
            return x @ p["w"]

        rng = np.random.default_rng(0)
        params, x = {"w": normal(rng, (8, 8))}, normal(rng, (8, 8))
        (decision,) = qpass.transform(fn, INT8).plan(params, x).decisions
        assert (decision.site.weight, decision.site.weight_path) == (1, "w")

    def test_two_parameters_of_one_shape(self):
        args = helper_arguments()
        assert quantized_weights(helper_model, *args) == {"a", "b"}

    def test_a_product_with_a_sum_of_parameters_says_why_it_is_float(self):
        q = qpass.transform(lambda p, x: x @ (p["a"] + p["b"]), INT8, strict=False)
        with pytest.warns(UserWarning, match="rule 0"):
            (decision,) = q.plan(*helper_arguments()).decisions
        assert decision.action is None
        assert "computes a new value from a and b" in decision.notes[0]

    def test_weight_only_on_a_transposed_weight_is_the_same_eagerly_and_under_jit(self):
        case = CASES["transposed"]
        params, x = case.arguments()
        q = qpass.transform(case.fn, rules("int8"))
        assert isinstance(q.quantize(params, x)["w"], qpass.QTensor)
        np.testing.assert_allclose(q(params, x), jax.jit(q)(params, x), rtol=1e-6, atol=1e-6)
        near(q(params, x), case.fn(params, x))


class TestSilence:
    """A rule without effect passed without a word."""

    def test_a_rule_that_matches_nothing(self):
        q = qpass.transform(CASES["matmul"].fn, rules("int8", path="nothing"))
        with pytest.raises(qpass.RuleError, match="nothing"):
            q(*CASES["matmul"].arguments())

    def test_a_typo_in_an_operation(self):
        with pytest.raises(qpass.RuleError, match="dot_general"):
            qpass.Rule(op="dot_genral", weight="int8")

    def test_a_quantized_activation_without_a_quantized_weight(self):
        with pytest.raises(qpass.RuleError, match="weight="):
            qpass.Rule(act="int8")


class TestDtypes:
    """`preferred_element_type` and `precision` were lost."""

    def test_bf16_operands_with_a_float32_result(self):
        def fn(p, x):
            return jnp.einsum("mk,kn->mn", x, p["w"], preferred_element_type=jnp.float32)

        args = CASES["matmul"].arguments("bfloat16")
        for given in (INT8, rules("int8"), rules(qpass.int4.grouped(8))):
            assert qpass.transform(fn, given)(*args).dtype == jnp.float32

    def test_the_precision_of_products_for_gradients_is_that_asked(self):
        def fn(p, x):
            return jnp.matmul(x, p["w"], precision="highest").sum()

        args = CASES["matmul"].arguments()
        text = str(jax.make_jaxpr(jax.grad(qpass.transform(fn, INT8)))(*args))
        backward = [line for line in text.splitlines() if "dot_general" in line]
        assert "HIGHEST" in text
        assert backward


@pytest.mark.parametrize("group", [7, 16, 32, 39])
def test_a_group_that_does_not_divide_the_axis(group):
    params, x = CASES["matmul"].arguments()
    q = qpass.transform(CASES["matmul"].fn, rules(qpass.int8.grouped(group)))
    qparams = q.quantize(params, x)
    assert sorted(qparams["w"].scale.shape) == sorted((24, -(-40 // group)))
    near(q(qparams, x), CASES["matmul"].fn(params, x), 0.01)


def test_products_inside_a_kernel_are_left_alone():
    def kernel(x_ref, w_ref, out_ref):
        out_ref[...] = x_ref[...] @ w_ref[...]

    def fn(p, x):
        out = jax.ShapeDtypeStruct((8, 8), jnp.float32)
        return pl.pallas_call(kernel, out_shape=out, interpret=True)(x, p["inside"]) @ p["w"]

    params, x = {"inside": jnp.ones((8, 8)), "w": jnp.ones((8, 8))}, jnp.ones((8, 8))
    q = qpass.transform(fn, INT8)
    opaque = [row for row in q.plan(params, x).rows if row.op == "pallas_call"]
    assert len(opaque) == 1
    assert "opaque" in opaque[0].reason
    assert quantized_weights(fn, params, x) == {"w"}
    np.testing.assert_allclose(q(params, x), fn(params, x), rtol=1e-5)


def test_remat_stays_and_leaks_nothing():
    def fn(p, x):
        layer = jax.checkpoint(lambda h, w: (jnp.sin(h @ w), None))
        return lax.scan(layer, x, p["w"])[0].sum()

    params, x = jax.tree.map(lambda a: a * 0.15, CASES["scanned"].arguments())
    q = qpass.transform(fn, rules("fp8_e4m3", "fp8_e4m3"))
    text = str(jax.make_jaxpr(jax.grad(q))(params, x))
    assert "checkpoint" in text or "remat" in text
    near(jax.jit(jax.grad(q))(params, x)["w"], jax.grad(fn)(params, x)["w"], 0.15)


def test_quantizing_takes_one_leaf_more_than_the_model():
    """Donated leaf by leaf: after each step the codes of those done and the floats of the rest."""
    params, x = CASES["chain"].arguments()
    params = jax.tree.map(jnp.array, params)
    qparams = qpass.transform(CASES["chain"].fn, INT8).quantize(params, x, donate=True)
    assert params["up"].is_deleted()
    assert params["down"].is_deleted()
    assert not jax.tree.leaves(qparams)[0].is_deleted()


def test_overlapping_rules_quantize_once():
    params, x = CASES["matmul"].arguments()
    once = qpass.transform(CASES["matmul"].fn, INT8)
    both = qpass.transform(CASES["matmul"].fn, [*INT8, *INT8, *rules("int4")])
    np.testing.assert_array_equal(both(params, x), once(params, x))
    assert jax.tree.leaves(both.quantize(params, x))[0].dtype == jnp.int8


def test_one_row_is_not_multiplied_as_one_row_on_cpu():
    """XLA's int8 product with M = 1 is 17 times as slow as with two rows."""
    params, x = CASES["one row"].arguments()
    q = jax.jit(qpass.transform(CASES["one row"].fn, INT8))
    text = q.trace(params, x).lower(lowering_platforms=("cpu",)).as_text()
    (product,) = [line for line in text.splitlines() if "dot_general" in line]
    assert "1x2x40xi8" in product
    assert q(params, x).shape == (1, 24)
