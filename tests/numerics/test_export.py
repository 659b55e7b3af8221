"""Tensors of every type as arguments of exported functions."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from qpass.errors import QuantizeError
from qpass.numerics import QTYPES, QType, mxfp4, quantize
from qpass.numerics.scale_formats import E8M0_FLOOR, ScaleFormat
from tests.numerics import oracle

pytest.importorskip("flatbuffers", reason="jax.export writes files with it")

OWN = (
    replace(mxfp4, name="mxfp4_floor", scale_format=E8M0_FLOOR),
    QType("ternary", jnp.dtype(jnp.int8), -1, 1, packed=2, derivative="masked"),
    QType("halves", jnp.dtype(jnp.uint8), -1, 1, "table", table=(-1.0, -0.5, 0.0, 0.5, 1.0)),
)


def test_all_types_come_back_in_one_function():
    x = oracle.sample((6, 70))
    tensors = {
        qtype.name: quantize(x, qtype.as_quantizer(), (1,), pack=True) for qtype in (*QTYPES, *OWN)
    } | {"zeros": quantize(x, QTYPES[0].asymmetric(), (1,), pack=True)}

    def values(tensors):
        return {name: q.dequantize() for name, q in tensors.items()}

    written = export.export(jax.jit(values))(tensors).serialize()
    back = export.deserialize(written)
    assert back.in_tree == jax.tree.structure(((tensors,), {}))
    wanted = jax.jit(values)(tensors)
    for name, value in back.call(tensors).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def test_a_format_of_scales_that_has_no_name_is_refused():
    @dataclass(frozen=True)
    class Halved(ScaleFormat):
        dtype = jnp.dtype(jnp.float32)

        def make(self, scale, amax, qtype, separate=()):
            return scale * 0.5, None

    own = replace(mxfp4, name="own", scale_format=Halved())
    q = quantize(oracle.sample((2, 32)), own.as_quantizer(), (1,))
    written = export.export(jax.jit(lambda q: q.dequantize()))(q)
    with pytest.raises(
        QuantizeError, match="Export own with scales in one of the formats of qpass"
    ):
        written.serialize()
