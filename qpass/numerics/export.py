"""QTensor in files that `jax.export` writes."""

from __future__ import annotations

import json
from dataclasses import replace

import jax.numpy as jnp
from jax import export

from qpass.numerics.qtensor import QTensor
from qpass.numerics.qtypes import QTYPES, QType
from qpass.numerics.scale_formats import FLOAT32


def register_serialization() -> None:
    """Let `jax.export` serialize functions with QTensor arguments. To be called once.

    Raises:
        ValueError: it was called before.
    """
    export.register_pytree_node_serialization(
        QTensor,
        serialized_name="qpass.QTensor",
        serialize_auxdata=_pack,
        deserialize_auxdata=_unpack,
    )


def _pack(meta: tuple) -> bytes:
    qtype, dtype, groups, order = meta
    return json.dumps([_type_fields(qtype), dtype.name, groups, order]).encode()


def _unpack(data: bytes) -> tuple:
    fields, dtype, groups, order = json.loads(data)
    return _as_type(*fields), jnp.dtype(dtype), tuple(map(tuple, groups)), tuple(order)


def _type_fields(qtype: QType) -> list:
    """Everything of a type but how its scales are stored, which only types of qpass choose."""
    fields = (qtype.name, qtype.dtype.name, qtype.qmin, qtype.qmax, qtype.kind, qtype.packed)
    return [*fields, qtype.table, qtype.block]


def _as_type(name: str, dtype: str, qmin: float, qmax: float, *rest) -> QType:
    kind, packed, table, block = rest
    known = {qtype.name: qtype.scale_format for qtype in QTYPES}
    made = QType(name, jnp.dtype(dtype), qmin, qmax, kind, packed, tuple(table), block)
    return replace(made, scale_format=known.get(name, FLOAT32))
