"""How a model is trained: a name, and the quantizers of a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import qpass


@dataclass(frozen=True)
class Recipe:
    """A way to train.

    Attributes:
        name: what tables call it.
        quantizers: of a `qpass.Rule`; none for float.
        within: how far the loss in the end may be from that of float, as a part of it.
        gradients: how far gradients may be from float ones: mean |difference| / mean |float|.
        delayed: whether scales come from earlier steps, as state.
        converts: whether weights are stored quantized in the end, before they are judged.
        op: which products the rule is for, as of `qpass.Rule`; None: all.
    """

    name: str
    quantizers: Mapping[str, str] = field(default_factory=dict)
    within: float | None = None
    gradients: float | None = None
    delayed: bool = False
    converts: bool = False
    op: str | None = None

    def rules(self, path: str) -> tuple[qpass.Rule, ...]:
        """Rules that quantize the products with weights of a path, and leave all others."""
        given: Any = self.quantizers
        return (qpass.Rule(path=path, op=self.op, **given), qpass.Rule(path="**", keep=True))


FLOAT = Recipe("float")
INT8 = Recipe("int8", dict.fromkeys(("weight", "act", "grad"), "int8"), 0.01, 0.05)
FP8 = Recipe(
    "fp8 current", {"weight": "fp8_e4m3", "act": "fp8_e4m3", "grad": "fp8_e5m2"}, 0.01, 0.1
)
FP8_DELAYED = Recipe(
    "fp8 delayed",
    {name: f"{quantizer} delayed" for name, quantizer in FP8.quantizers.items()},
    0.01,
    0.1,
    delayed=True,
)
QAT = Recipe("QAT int4 g32", {"weight": "int4 g32"}, 0.03, converts=True)
RECIPES = (FLOAT, INT8, FP8, FP8_DELAYED, QAT)
