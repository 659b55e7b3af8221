"""Pages of the documentation that are written from measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qpass_bench.roundtrip import measure

GENERATED = "<!-- Written by docs/build.py; change that, not this page. -->"

NUMERICS_INTRO = """\
# Numerics

A quantized array is codes and float32 scales: `value = f32(code) * scale`. For every block of elements that share a scale

- `scale = absmax * f32(1 / qmax)` over the finite elements, at least the smallest normal float32; a block of zeros has scale 1;
- `code = clip(rint(x * (1 / scale)), -qmax, qmax)`, ties to even; a float type is rounded by its cast instead;
- the range is symmetric: ±127 for int8, ±7 for int4, so that zero is exact and negation never saturates.

Codes are rounded from a product with the reciprocal, not from a quotient. XLA rewrites `x / c` into `x * (1 / c)` depending on the context, so codes from a division would
differ between a training step and a stored checkpoint. The last two columns show that the choice costs nothing.

Which elements share a scale follows from the contraction alone. Per channel: one scale for each index of every axis that is not contracted. Grouped: the innermost contracted axis is
cut in groups, the last one may be short. Per tensor: one for all; stacked layers that a scan slices have their own.

Weights that hold NaN or infinities are refused, with the leaf's name and the count. For activations, scales use the finite values only; an infinity saturates, a NaN becomes zero in an
integer type.

## Products

With quantized activations: integer codes are multiplied and summed exactly in int32 for each group, then `f32(sum) * activation scale * weight scale`, groups added in
float32. Weight-only: products of activations and codes are summed in float32, scales are applied after the sum per channel and before it per group. The result is cast to the dtype
that the program asked for.

Float parameters and stored ones run through the same functions; under `jax.jit` on one backend the results are equal bit for bit. Gradients are straight-through: the backward
products are float products of the values that the forward used.

## Errors

Mean absolute error over mean magnitude of a 256 × 1024 array, per row of 1024; "outliers" has one value in a thousand fifty times as large. Bits count the scales.

"""


def numerics() -> str:
    """``docs/numerics.md``, measured now."""
    rows = [
        (r.quantizer, f"{r.bits:.2f}", *(f"{v:.5f}" for v in (r.normal, r.outliers)),
         f"{r.true_division:.5f}")
        for r in measure()
    ]  # fmt: skip
    head = ("quantizer", "bits", "normal", "outliers", "normal, codes from x / scale")
    return f"{GENERATED}\n\n{NUMERICS_INTRO}{table(head, rows)}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows)) + "\n"


def performance(report: dict[str, Any]) -> str:
    """``docs/performance.md`` from the demo's report."""
    raise NotImplementedError
