"""What a product does to its operands before, or beside, the kernel: in words, for the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from qpass.numerics import QTensor, decoding
from qpass.ops.dot_general import dequantized_because
from qpass.ops.dot_spec import DotSpec


def decoded(spec: DotSpec, x: Any, w: QTensor, reads: bool = False) -> tuple[str, ...]:
    """Codes that no kernel multiplies as they are, zero points, and products that fall to floats.

    Args:
        spec: the product.
        x: the other operand, or its shape and dtype.
        w: the weight, or its shapes and dtypes.
        reads: whether the kernel reads the weight's codes as they are stored.
    """
    if spec.sharding is not None:
        because = dequantized_because(spec, x, w, {"key": jax.random.key(0)})
        if because:
            return (f"dequantized before the product: {because}, and shardings are in the types",)
    return (*dict.fromkeys(_codes(spec, w, reads)), *_zero_points(spec, w))


def _codes(spec: DotSpec, w: QTensor, reads: bool) -> Iterator[str]:
    """Of each operand; two of one type are told of once."""
    if not reads:
        yield from filter(None, (decoding(w.qtype, packed=True),))
    if spec.act is not None:
        yield from filter(None, (decoding(spec.act.qtype),))


def _zero_points(spec: DotSpec, w: QTensor) -> Iterator[str]:
    """Codes of unsigned types that have none are signed once they are shifted."""
    sides = {
        "weight": w.zero is not None,
        "activation": spec.act is not None and not spec.act.symmetric,
    }
    having = " and ".join(side for side, has in sides.items() if has)
    if having:
        yield f"zero points of the {having} are taken off in float32 beside the kernel"
