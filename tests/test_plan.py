"""The plan: one decision for every product, the reasons, the notes, the kernels, and its prints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.passes import PASSES
from qpass.views import to_text
from qpass_kernels import KERNELS, REFERENCE
from tests.programs import CASES, rules

INT8 = rules("int8", "int8")


def model(p, x):
    """Every kind of higher-order program, products of activations, a constant, an integer one."""
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["stack"])[0]
    h = jax.checkpoint(lambda h: jnp.sin(h @ p["remat"]))(h)
    h = jax.lax.cond(h.sum() > 0, lambda h: h @ p["yes"], lambda h: h @ p["no"], h)
    h = jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ p["loop"]), h)
    h = jax.jit(lambda h: h @ p["jit"])(h)
    scores = jnp.einsum("td,sd->ts", h, h)
    counts = jnp.ones((2, 3), jnp.int32) @ jnp.ones((3, 2), jnp.int32)
    return scores @ h @ np.eye(8, dtype=np.float32) + counts.sum(), p["stack"][0] @ p["jit"]


def arguments():
    names = ("remat", "yes", "no", "loop", "jit")
    return {n: jnp.ones((8, 8)) for n in names} | {"stack": jnp.ones((3, 8, 8))}, jnp.ones((2, 8))


def count_products(jaxpr):
    """Contractions of a jaxpr and everything inside it."""
    found = 0
    for eqn in jaxpr.eqns:
        found += eqn.primitive.name == "dot_general"
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                found += count_products(inner) if hasattr(inner, "eqns") else 0
    return found


def plan_of(fn, *args, given=INT8, **options):
    return qpass.transform(fn, given, **options).plan(*args)


def test_every_product_has_exactly_one_decision():
    plan = plan_of(model, *arguments())
    total = count_products(jax.make_jaxpr(model)(*arguments()))
    assert len(plan.decisions) == total == 11
    for decision in plan.decisions:
        assert (decision.action is None) == bool(decision.reason)
    assert len({d.site.id for d in plan.decisions}) == total
    for row in plan.rows:
        assert bool(row.scheme) == bool(row.kernel) != bool(row.reason)


def test_reasons():
    plan = plan_of(model, *arguments())
    reasons = {d.site.role: d.reason for d in plan.decisions if d.reason}
    assert "role='activations'" in reasons["activations"]
    assert "closes over" in reasons["constant"]
    assert "two weights" in reasons["weights"]


def test_sites_in_a_scan_say_how_often_they_run():
    rows = {row.weight: row for row in plan_of(model, *arguments()).rows}
    assert rows["stack"].count == 3
    assert rows["jit"].count == 1


def test_the_first_rule_that_fits_decides():
    given = [
        qpass.Rule(path="up", keep=True),
        qpass.Rule(path="**", weight="int8"),
        qpass.Rule(path="d*", weight="int4"),
    ]
    plan = plan_of(CASES["chain"].fn, *CASES["chain"].arguments(), given=given)
    up, down = plan.decisions
    assert (up.rule, up.action, up.reason) == (0, None, "kept float by rule 0")
    assert (down.rule, str(down.action.scheme)) == (1, "int8 weight-only")
    assert any("rule 2" in text and "rule 1" in text for text in plan.findings)
    assert "rule 2" in str(plan)


def test_products_of_activations_only_by_role():
    case = CASES["attention"]
    args = case.arguments()
    given = [*INT8, qpass.Rule(role="activations", act="int8")]
    q = qpass.transform(case.fn, given)
    plan = q.plan(*args)
    assert [d.rule for d in plan.decisions] == [0, 1, 1, 0]
    assert [d.site.role for d in plan.decisions] == ["forward", "qk", "pv", "forward"]
    wanted, got = case.fn(*args), q(*args)
    assert 0 < np.abs(got - wanted).mean() < 0.05 * np.abs(wanted).mean()
    served = jax.jit(q)(q.quantize(*args), *args[1:])
    np.testing.assert_array_equal(jax.jit(q)(*args), served)


NOTES = {
    "two products along other axes": (
        lambda p, x: x @ p["w"] @ p["w"].T,
        "wants int8 along axes",
    ),
    "read by something else": (lambda p, x: x @ p["w"] * p["w"].sum(), "also read by reduce_sum"),
    "returned": (lambda p, x: (x @ p["w"], p["w"]), "also read by output"),
    "a part of an axis": (
        lambda p, x: jnp.einsum("mgk,gkn->mgn", x.reshape(2, 2, 4), p["w"].reshape(2, 4, 8)),
        "only a part of axis 0",
    ),
    "two types": (None, "wants int4"),
}


def two_types(p, x):
    with jax.named_scope("first"):
        x = x @ p["w"]
    with jax.named_scope("second"):
        return x @ p["w"]


@pytest.mark.parametrize(("fn", "why"), NOTES.values(), ids=NOTES)
def test_a_weight_quantized_on_every_call_says_why(fn, why):
    given = INT8
    if fn is None:
        fn = two_types
        given = [qpass.Rule(scope="first", weight="int8"), qpass.Rule(weight="int4")]
    p, x = {"w": jnp.arange(64.0).reshape(8, 8) / 64}, jnp.ones((2, 8))
    q = qpass.transform(fn, given)
    plan = q.plan(p, x)
    for decision in plan.decisions:
        assert decision.action is not None
        assert not decision.stored
        assert why in decision.notes[0]
        assert "quantized on every call" in decision.notes[0]
    assert q.quantize(p, x)["w"] is p["w"]
    for got, wanted in zip(jax.tree.leaves(q(p, x)), jax.tree.leaves(fn(p, x)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0.15, atol=0.05)


def test_a_weight_that_is_computed_from_parameters_names_them():
    plan = plan_of(lambda p, x: x @ (p["a"] * p["b"]), *_two(), strict=False, given=[])
    (note,) = plan.decisions[0].notes
    assert note.startswith("rhs: mul at test_plan.py:")
    assert note.endswith("computes a new value from a and b")


def test_a_site_left_float_says_where_both_operands_come_from():
    """Whatever its role; a quantized one has its scheme to say."""
    rows = {row.role: row for row in reversed(plan_of(model, *arguments()).rows)}
    lhs, rhs = rows["activations"].operands_from
    assert lhs.startswith("lhs: dot_general at test_plan.py:")
    assert lhs.endswith("computes a new value from an activation and jit")
    assert rhs == lhs.replace("lhs", "rhs")
    assert rows["constant"].operands_from[1] == "rhs: a constant that the function closes over"
    assert rows["weights"].operands_from == ("lhs: stack", "rhs: jit")
    assert rows["forward"].operands_from == ()
    kept = plan_of(CASES["chain"].fn, *CASES["chain"].arguments(), given=qpass.Rule(keep=True))
    assert kept.rows[0].operands_from == ("lhs: x, an input that is no parameter", "rhs: up")
    for role in ("dlhs", "drhs"):
        step = jax.grad(lambda p, x: CASES["chain"].fn(p, x).sum())
        found = [r for r in plan_of(step, *CASES["chain"].arguments()).rows if r.role == role]
        assert found
        assert all(len(row.operands_from) == 2 for row in found)


def test_details_draw_where_operands_come_from():
    plan = plan_of(model, *arguments())
    said = "computes a new value from an activation and jit"
    shown = to_text(plan.table(details=True), width=400)
    assert said in shown
    assert said not in to_text(plan.table(), width=400)
    assert said in plan.to_html()


def _two():
    return {"a": jnp.ones((8, 4)), "b": jnp.ones((8, 4))}, jnp.ones((2, 8))


def test_look_up_by_id():
    plan = plan_of(CASES["chain"].fn, *CASES["chain"].arguments())
    for decision in plan.decisions:
        assert plan[decision.site.id] is decision


def test_bytes_before_and_after():
    p, x = {"w": jnp.ones((256, 128))}, jnp.ones((1, 256))
    q = qpass.transform(CASES["matmul"].fn, rules(qpass.int4.grouped(32)))
    (row,) = q.plan(p, x).rows
    assert row.bytes_before == 256 * 128 * 4
    assert row.bytes_after == qpass.tree_nbytes(q.quantize(p, x)) == 256 * 128 // 2 + 8 * 128 * 4


def test_kernels_are_named_for_the_platform():
    p, x = {"w": jnp.ones((512, 256))}, jnp.ones((128, 512))
    q = qpass.transform(CASES["matmul"].fn, INT8)
    names = {k: {kernel.name for kernel in KERNELS if k in kernel.platforms} for k in PLATFORMS}
    for platform in PLATFORMS:
        (row,) = q.plan(p, x, platform=platform).rows
        assert row.kernel in names[platform] | {"reference"}
        assert all(reason for _, reason in row.refused)
    assert q.plan(p, x).rows[0].kernel.startswith("cpu")


PLATFORMS = ("cpu", "cuda", "tpu")


def test_a_refusal_carries_its_reason():
    """A kernel before the chosen one says why it was passed over."""
    picky = type(REFERENCE)("picky", (), lambda product: "never on a Monday", REFERENCE.run)
    q = qpass.transform(CASES["matmul"].fn, INT8, kernels=(picky, *KERNELS))
    plan = q.plan(*CASES["matmul"].arguments())
    assert ("picky", "never on a Monday") in plan.rows[0].refused
    assert "never on a Monday" in str(plan)


def test_the_table_of_kernels_can_be_replaced():
    args = CASES["chain"].arguments()
    q = qpass.transform(CASES["chain"].fn, INT8, kernels=(REFERENCE,))
    for platform in PLATFORMS:
        assert {row.kernel for row in q.plan(*args, platform=platform).rows} == {"reference"}
    wanted = qpass.transform(CASES["chain"].fn, INT8)(*args)
    np.testing.assert_allclose(q(*args), wanted, rtol=1e-5, atol=1e-5)


def test_a_table_without_a_kernel_for_the_platform_says_so():
    elsewhere = type(REFERENCE)("elsewhere", ("tpu",), lambda product: None, REFERENCE.run)
    q = qpass.transform(CASES["matmul"].fn, INT8, kernels=[elsewhere])
    args = CASES["matmul"].arguments()
    assert q.plan(*args, platform="tpu").rows[0].kernel == "elsewhere"
    with pytest.raises(ValueError, match="REFERENCE"):
        q(*args)


def test_a_pass_of_ones_own():
    def keep_narrow(plan):
        def change(decision):
            if decision.action and min(decision.site.rhs_shape) < 32:
                return qpass.Decision(decision.site, decision.rule, reason="too narrow")
            return decision

        return plan.update(change)

    p = {"wide": jnp.ones((64, 64)), "narrow": jnp.ones((64, 8))}

    def fn(p, x):
        return x @ p["wide"] @ p["narrow"]

    match, *rest = PASSES
    q = qpass.transform(fn, INT8, passes=(match, keep_narrow, *rest))
    x = jnp.ones((2, 64))
    assert [row.reason for row in q.plan(p, x).rows] == ["", "too narrow"]
    assert not isinstance(q.quantize(p, x)["narrow"], qpass.QTensor)


def test_prints():
    plan = plan_of(model, *arguments())
    text = str(plan)
    assert "int8 x int8" in text
    assert "test_plan.py" in plan.rows[0].source
    assert len(json.loads(plan.to_json())["sites"]) == 11
    assert plan.to_dot().startswith("digraph")
    assert plan.to_html().lstrip().lower().startswith("<!doctype html>")
    page = plan.to_html().replace("<wbr>", "")
    for row in plan.rows:
        assert row.id in page
        assert row.id in plan.to_dot()


def test_plans_need_no_arrays():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments())
    assert plan_of(model, *shapes).to_json() == plan_of(model, *arguments()).to_json()


def test_the_plan_of_stored_weights_is_that_of_float_ones():
    q = qpass.transform(model, INT8)
    params, x = arguments()
    assert q.plan(q.quantize(params, x), x).rows == q.plan(params, x).rows


def test_a_stored_weight_that_is_dequantized_on_its_way_has_a_note():
    """`jnp.where` is a jitted function of its own, whose select needs the float weight."""

    def fn(p, x):
        return x @ jnp.where(p["mask"], p["w"], jax.lax.stop_gradient(p["w"]))

    p = {"w": jnp.ones((8, 8)), "mask": jnp.ones((8, 8), bool)}
    (row,) = qpass.transform(fn, [qpass.Rule(weight="int8")]).plan(p, jnp.ones((2, 8))).rows
    assert row.notes == ("dequantized at select_n on the way, and quantized again here",)
