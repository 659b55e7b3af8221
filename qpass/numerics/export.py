"""QTensor in files that `jax.export` writes."""

from __future__ import annotations

import json

import jax.numpy as jnp
from jax import export

from qpass.numerics.qtensor import QTensor
from qpass.numerics.qtypes import QType


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
    fields = (qtype.name, qtype.dtype.name, qtype.qmin, qtype.qmax, qtype.kind)
    return json.dumps([fields, dtype.name, groups, order]).encode()


def _unpack(data: bytes) -> tuple:
    (name, codes, qmin, qmax, kind), dtype, groups, order = json.loads(data)
    qtype = QType(name, jnp.dtype(codes), qmin, qmax, kind)
    return qtype, jnp.dtype(dtype), tuple(map(tuple, groups)), tuple(order)
