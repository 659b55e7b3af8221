"""Tables that rules name: stored, and decoded row by row after the look-up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.errors import RuleError
from tests.jaxprs import equations
from tests.numerics.oracle import values

V, D = 40, 16
TABLE = jax.random.normal(jax.random.key(0), (V, D))
IDS = jnp.array([[3, 0, 11], [5, 5, 39]])
ROWS = qpass.Rule(role="lookup", weight="int8")
BOTH = qpass.Rule(path="table", role=("forward", "lookup"), weight="int8", act="int8")


def looked_up(p, ids):
    return p["table"][ids] * 2


def tied(p, ids):
    return jnp.tanh(p["table"][ids]) @ p["table"].T


def columns(p, ids):
    return p["table"][:, ids]


def in_a_scan(p, ids):
    return lax.scan(
        lambda c, table: (c + table[ids], None), jnp.zeros((*ids.shape, D)), p["table"]
    )[0]


@pytest.mark.parametrize("weight", ["int8", "int8 tensor", "int4 g8", "nf4 g8", "fp8_e4m3"])
def test_rows_are_those_of_the_stored_table(weight):
    q = qpass.transform(looked_up, qpass.Rule(role="lookup", weight=weight))
    stored = q.quantize({"table": TABLE}, IDS)
    want = np.asarray(values(stored["table"])[np.asarray(IDS)] * 2, np.float32)
    np.testing.assert_allclose(q(stored, IDS), want, rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(q)(stored, IDS), jax.jit(q)({"table": TABLE}, IDS))
    assert np.abs(want - TABLE[IDS] * 2).max() > 1e-4


def test_every_row_has_a_scale_and_the_plan_says_so():
    q = qpass.transform(looked_up, ROWS)
    stored = q.quantize({"table": TABLE}, IDS)
    assert stored["table"].scale.shape == (V, 1)
    (row,) = q.plan({"table": TABLE}, IDS).rows
    told = (row.op, row.role, row.weight, row.scheme, row.kernel)
    assert told == ("gather", "lookup", "table", "int8 rows", "look-up")
    assert (row.bytes_before, row.bytes_after) == (4 * V * D, V * D + 4 * V)


def test_the_whole_table_is_never_decoded():
    q = qpass.transform(tied, BOTH)
    stored = q.quantize({"table": TABLE}, IDS)
    whole = {(V, D), (D, V)}
    made = [v.aval for eqn in equations(jax.make_jaxpr(q)(stored, IDS)) for v in eqn.outvars]
    assert not [a for a in made if a.shape in whole and jnp.issubdtype(a.dtype, jnp.floating)]


def test_a_tied_head_is_stored_once_for_both():
    q = qpass.transform(tied, BOTH)
    stored = q.quantize({"table": TABLE}, IDS)
    assert len(jax.tree.leaves(stored)) == 2  # codes and scales
    assert [d.stored for d in q.plan({"table": TABLE}, IDS).decisions] == [True, True]
    table = values(stored["table"])
    want = np.tanh(table[np.asarray(IDS)]) @ table.T
    got = jax.jit(q)(stored, IDS)
    assert 0 < np.abs(got - want).mean() < 0.01 * np.abs(want).mean()


def test_two_rules_that_disagree_keep_the_table_float():
    q = qpass.transform(tied, [ROWS, qpass.Rule(weight="int4")])
    head, rows = q.plan({"table": TABLE}, IDS).decisions
    assert "wants int4 along axes (1,), table/gather.0 wants int8" in head.notes[0]
    assert rows.reason.startswith("its table stays float: table/dot_general.0 wants int4")
    assert not isinstance(q.quantize({"table": TABLE}, IDS)["table"], qpass.QTensor)


def test_a_look_up_that_a_rule_keeps_needs_the_float_table():
    q = qpass.transform(tied, [qpass.Rule(role="lookup", keep=True), qpass.Rule(weight="int8")])
    head, rows = q.plan({"table": TABLE}, IDS).decisions
    assert "read by table/gather.0, which stays float (kept float by rule 0)" in head.notes[0]
    assert rows.reason == "kept float by rule 0"


def test_without_a_rule_for_them_look_ups_are_as_before():
    q = qpass.transform(tied, qpass.Rule(weight="int8"))
    (only,) = q.plan({"table": TABLE}, IDS).decisions
    assert only.stored
    elsewhere = qpass.Rule(role="lookup", path="other", weight="int8")
    asked = qpass.transform(tied, [qpass.Rule(weight="int8"), elsewhere], strict=False)
    with pytest.warns(UserWarning, match="path=other"):
        head, rows = asked.plan({"table": TABLE}, IDS).decisions
    assert head.stored
    assert rows.reason == "look-up of rows: only a rule with role='lookup' takes it"


def test_errors_lead_the_way():
    def says(fn, rule):
        with pytest.raises(RuleError) as error:
            qpass.transform(fn, rule).plan({"table": TABLE}, IDS)
        return str(error.value)

    assert "role='lookup' stores it" in says(looked_up, qpass.Rule(path="table", weight="int8"))
    assert "whole rows along the first axis" in says(columns, ROWS)
    learned = qpass.Rule(role="lookup", weight="int8 lsq")
    assert "finds its range from products" in says(looked_up, learned)
    with pytest.raises(RuleError, match="Drop act=: a look-up of rows multiplies nothing"):
        qpass.Rule(role="lookup", weight="int8", act="int8")
    with pytest.raises(RuleError, match="Give weight= for role='lookup'"):
        qpass.Rule(role=("activations", "lookup"), act="int8")


def test_gradients_reach_the_float_table():
    q = qpass.transform(looked_up, ROWS)
    weight = jax.random.normal(jax.random.key(1), (*IDS.shape, D))
    got = jax.grad(lambda p: (q(p, IDS) * weight).sum())({"table": TABLE})["table"]
    want = np.zeros((V, D))
    np.add.at(want, np.asarray(IDS), 2 * np.asarray(weight, np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_stacked_tables_in_a_scan_under_vmap_and_exported():
    params = {"table": jnp.stack([TABLE, TABLE * 0.5, TABLE * 2])}
    q = qpass.transform(in_a_scan, ROWS)
    stored = q.quantize(params, IDS)
    assert stored["table"].scale.shape == (3, V, 1)
    want = values(stored["table"])[:, np.asarray(IDS)].sum(0)
    got = jax.jit(q)(stored, IDS)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    mapped = jax.vmap(q, (None, 0))(stored, IDS)
    np.testing.assert_allclose(mapped, got, rtol=1e-6)
    exported = jax.export.export(jax.jit(lambda ids: q(stored, ids)))(IDS)
    np.testing.assert_allclose(exported.call(IDS), got, rtol=1e-6)


def test_compare_and_capture_know_look_ups():
    q = qpass.transform(tied, BOTH)
    found = {error.site: error for error in q.compare({"table": TABLE}, IDS).sites}
    assert 0 < found["table/gather.0"].relative_error < 0.01
    assert set(q.capture({"table": TABLE}, IDS)) == {"table/dot_general.0"}
