"""`plan.why`: the way from leaf to product, what every rule says, what is stored, and why not."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl

import qpass
from qpass_kernels import KERNELS, REFERENCE


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def model(p, x):
    """A scanned layer in bfloat16, a tied matrix read both ways, a weight made of others."""

    def layer(x, w):
        return jnp.tanh(x @ w.T.astype(jnp.bfloat16).astype(jnp.float32)), None

    x = lax.scan(layer, x, p["layers"]["up"])[0]
    x = jnp.einsum("td,df->tf", x, p["tied"]["kernel"]) @ p["tied"]["kernel"].T
    return x @ (p["head"] + p["lora_a"] @ p["lora_b"])


PARAMS = {
    "layers": {"up": shape(3, 64, 64)},
    "tied": {"kernel": shape(64, 64)},
    "head": shape(64, 64),
    "lora_a": shape(64, 2),
    "lora_b": shape(2, 64),
}
RULES = [
    qpass.Rule(path="**/attn/**", keep=True),
    qpass.Rule(path=("layers/*", "tied/*"), weight="int8", act="int8"),
    qpass.Rule(name="rest", where=lambda site: False, weight="int4"),
]
X = shape(4, 64)


@pytest.fixture(scope="module")
def plan():
    q = qpass.transform(model, RULES, strict=False)
    with pytest.warns(UserWarning, match="rule [02]"):
        return q.plan(PARAMS, X)


def lines(told, operand):
    return [(line.what, line.type) for line in told.operands[operand].lines]


def test_every_station_from_the_leaf_to_the_product(plan):
    told = plan.why("layers/up/dot_general.0")
    assert lines(told, 1) == [
        ("layers/up (parameter)", "f32[3,64,64]"),
        ("scan slice", "f32[64,64]"),
        ("transpose (1, 0)", "f32[64,64]"),
        ("convert_element_type to bfloat16", "bf16[64,64]"),
        ("convert_element_type to float32", "f32[64,64]"),
        ("rhs of dot_general", "f32[64,64]"),
    ]
    assert all(line.source.startswith("test_why.py:") for line in told.operands[1].lines[1:])
    assert told.storage.startswith("layers/up is stored as int8 along axes (2,)")
    assert told.storage.endswith("49.2 kB → 13.1 kB")
    assert told.row == plan.rows[0]


def test_what_each_rule_says(plan):
    told = plan.why("layers/up/dot_general.0")
    assert [(said.rule, said.fits) for said in told.rules] == [(0, False), (1, True), (2, False)]
    assert told.rules[0].says == "path='**/attn/**' does not fit 'layers/up'"
    assert told.rules[1].says == "decides: int8 x int8"
    assert told.rules[2].says.endswith("<lambda> is false here")
    rules = [qpass.Rule(keep=True), qpass.Rule(act="int8", weight="int8")]
    kept = qpass.transform(lambda p, x: x @ p["w"], rules)
    told = kept.plan({"w": shape(8, 8)}, shape(2, 8)).why("w/dot_general.0")
    assert told.rules[0].says == "decides: the product stays float"
    assert told.rules[1].says == "fits too, but rule 0 comes first"
    assert told.storage == "w is read in float here"


def test_a_broken_trail(plan):
    (head,) = [d.site.id for d in plan.decisions if d.site.role == "activations"]
    told = plan.why(head)
    (start, _), end = lines(told, 1)
    assert start.startswith("add at test_why.py:")
    assert start.endswith("computes a new value from head and lora_a, lora_b")
    assert end == ("rhs of dot_general", "f32[64,64]")
    assert "only a rule with role='activations'" in str(told)
    assert told.rules[1].says == (
        "path='layers/*' or 'tied/*' does not fit a product without a weight; "
        "without role= it is for 'forward' products; this is 'activations'"
    )


def test_a_contradiction(plan):
    for number in (0, 1):
        told = plan.why(f"tied/dot_general.{number}")
        assert told.storage == "tied/kernel is not stored quantized: each call quantizes it here"
        assert "tied/dot_general.1 wants int8 along axes (1,)" in told.row.notes[0]
        assert "16.4 kB, stored 4.35 kB" in str(told)
        assert "Give both weight='int8 tensor'" in told.advice
        assert told.advice in " ".join(str(told).split())


def test_kernels_chosen_and_refused():
    picky = type(REFERENCE)("picky", (), lambda product: "never on a Monday", REFERENCE.run)
    q = qpass.transform(model, RULES[1], kernels=(picky, *KERNELS), strict=False)
    text = str(q.plan(PARAMS, X, platform="cpu").why("layers/up/dot_general.0"))
    assert "not picky: never on a Monday" in text


def test_a_sub_program_that_cannot_be_looked_into():
    def kernel(x, w, out):
        out[...] = jnp.dot(x[...], w[...])

    def fn(p, x):
        call = pl.pallas_call(kernel, out_shape=shape(4, 64), interpret=True)
        return call(x @ p["a"], p["b"].T)

    plan = qpass.transform(fn, RULES[:0]).plan({"a": shape(64, 64), "b": shape(64, 64)}, X)
    told = plan.why(plan.rows[-1].id)
    assert [operand.name for operand in told.operands] == ["operand 0", "operand 1"]
    assert lines(told, 1)[0] == ("b (parameter)", "f32[64,64]")
    assert "opaque" in str(told)


def test_as_json(plan):
    told = plan.why("layers/up/dot_general.0")
    found = json.loads(told.to_json())
    assert found["format"] == "qpass-why"
    assert found["row"]["id"] == told.row.id
    assert found["operands"][1]["lines"][1]["what"] == "scan slice"
    assert [rule["fits"] for rule in found["rules"]] == [False, True, False]
    assert found["storage"] == told.storage


def test_backward_products_name_their_forward_one():
    step = jax.grad(lambda p, x: jnp.sin(x @ p["w"]).sum())
    rule = qpass.Rule(role="dlhs", weight="int8")
    plan = qpass.transform(step, rule, strict=False)
    with pytest.warns(UserWarning, match="fits no product"):
        rows = plan.plan({"w": shape(8, 8)}, shape(2, 8)).rows
    assert {row.role for row in rows} >= {"drhs"}
    both = jax.grad(lambda p, x: jnp.sin(jnp.sin(x @ p["w"]) @ p["w"]).sum())
    made = qpass.transform(both, rule).plan({"w": shape(8, 8)}, shape(2, 8))
    (dlhs,) = [row.id for row in made.rows if row.role == "dlhs"]
    assert "differentiates w/dot_general." in str(made.why(dlhs))
    assert "w is quantized here, along the axes of this product" in str(made.why(dlhs))


def test_an_unknown_site_names_the_nearest(plan):
    with pytest.raises(qpass.PlanError, match=r"no site 'layers/upp.*did you mean 'layers/up/dot"):
        plan.why("layers/upp/dot_general.0")


def test_every_site_can_be_explained(plan):
    for row in plan.rows:
        told = plan.why(row.id)
        assert row.id in str(told)
        assert len(told.rules) == len(RULES)
        assert sum(said.says.startswith("decides") for said in told.rules) == (row.rule is not None)
