"""QTensor and Packed in files that `jax.export` writes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import jax.numpy as jnp
from jax import export

from qpass.errors import QuantizeError
from qpass.numerics.packing import Packed
from qpass.numerics.qtensor import QTensor
from qpass.numerics.qtypes import QType
from qpass.numerics.scale_formats import FORMATS


def register_serialization() -> None:
    """Let `jax.export` serialize functions with QTensor arguments. To be called once.

    Raises:
        ValueError: it was called before.
    """
    export.register_pytree_node_serialization(
        QTensor,
        serialized_name="qpass.QTensor",
        serialize_auxdata=_write_tensor,
        deserialize_auxdata=_read_tensor,
    )
    export.register_pytree_node_serialization(
        Packed,
        serialized_name="qpass.Packed",
        serialize_auxdata=_write_packed,
        deserialize_auxdata=_read_packed,
    )


def _write_tensor(meta: tuple) -> bytes:
    qtype, dtype, groups, order = meta
    return json.dumps([plain_type(qtype), dtype.name, groups, order]).encode()


def _read_tensor(data: bytes) -> tuple:
    qtype, dtype, groups, order = json.loads(data)
    return read_type(qtype), jnp.dtype(dtype), tuple(map(tuple, groups)), tuple(order)


def plain_type(qtype: QType) -> dict[str, Any]:
    """A type as what JSON knows; a format of scales by its name.

    Raises:
        QuantizeError: its scales have a format that is not one of qpass's.
    """
    if qtype.scale_format not in FORMATS:
        raise QuantizeError(
            f"Export {qtype} with scales in one of the formats of qpass; {qtype.scale_format} is "
            f"another: {', '.join(map(str, FORMATS))}."
        )
    values = {field.name: getattr(qtype, field.name) for field in fields(qtype)}
    return values | {"dtype": qtype.dtype.name, "scale_format": str(qtype.scale_format)}


def read_type(values: dict[str, Any]) -> QType:
    """The type that `plain_type` wrote."""
    forms: dict[str, Any] = {str(form): form for form in FORMATS}
    values["dtype"], values["table"] = jnp.dtype(values["dtype"]), tuple(values["table"])
    values["scale_format"] = forms[values["scale_format"]]
    return QType(**values)


def _write_packed(meta: tuple) -> bytes:
    n, bits, dtype = meta
    return json.dumps([n, bits, dtype.name]).encode()


def _read_packed(data: bytes) -> tuple:
    n, bits, dtype = json.loads(data)
    return n, bits, jnp.dtype(dtype)
