"""Rows of a stored table: looked up as codes, whatever shares a scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import Packed, as_quantizer, quantize
from qpass.ops.layout import apply_layout

TABLE = jax.random.normal(jax.random.key(0), (12, 8))
IDS = jnp.array([[3, 0, 11], [5, 5, 99]])


def tied(params, ids):
    rows = params["table"][ids]
    return rows, rows @ params["table"].T


def take(params, ids):
    rows = jnp.take(params["table"], ids, axis=0)
    return rows, rows @ params["table"].T


def mapped(params, ids):
    """As Equinox has it: an embedding is called with one token, and mapped over tokens."""
    rows = jax.vmap(jax.vmap(lambda i: params["table"][i]))(ids)
    return rows, rows @ params["table"].T


def columns(params, ids):
    rows = params["table"][:, ids % 8]
    return rows, jnp.ones((2, 8)) @ params["table"].T


WEIGHTS = ("int8", "int8 tensor", "int4 g4", "fp8_e4m3")


@pytest.mark.parametrize("fn", [tied, take, mapped], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize(
    "weight", ["int8", "int8 tensor", "int4 g4", "fp8_e4m3", "int3 g4", "mxfp6 g4"]
)
def test_rows_are_those_of_the_dequantized_table(fn, weight):
    q = qpass.transform(fn, [qpass.Rule(weight=weight)])
    stored = q.quantize({"table": TABLE}, IDS)
    assert isinstance(stored["table"], qpass.QTensor)
    rows, _ = q(stored, IDS)
    exact, _ = fn({"table": stored["table"].dequantize()}, IDS)
    np.testing.assert_array_equal(rows, exact)
    assert not any("gather" in note for row in q.plan(stored, IDS).rows for note in row.notes)


def test_packed_rows_are_looked_up_in_bytes():
    q = quantize(TABLE, as_quantizer("int3"), (1,), (), True)
    jaxpr = jax.make_jaxpr(lambda table, ids: table.at[ids].get(mode="clip"))(TABLE, IDS)
    (eqn,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "gather"]
    rows = apply_layout(eqn, [q, IDS[..., None]])
    assert isinstance(rows, qpass.QTensor)
    assert isinstance(rows.codes, Packed)
    np.testing.assert_array_equal(rows.dequantize(), q.dequantize()[IDS])


def test_a_table_contracted_along_its_rows_is_still_looked_up():
    def fn(params, ids):
        return params["table"][ids] + (jnp.ones((2, 12)) @ params["table"])[:, None]

    q = qpass.transform(fn, [qpass.Rule(weight="int8")])
    stored = q.quantize({"table": TABLE}, IDS)
    want = fn({"table": stored["table"].dequantize()}, IDS)
    np.testing.assert_allclose(q(stored, IDS), want, rtol=1e-5, atol=1e-5)


def test_other_look_ups_keep_the_table_float_and_say_so():
    q = qpass.transform(columns, [qpass.Rule(weight="int8")])
    assert not isinstance(q.quantize({"table": TABLE}, IDS)["table"], qpass.QTensor)
    (row,) = q.plan({"table": TABLE}, IDS).rows
    assert "read by gather" in row.notes[0]
