"""The rules that the demo and the benchmarks run: what a user would write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import qpass
from qpass import Rule


@dataclass(frozen=True)
class Variant:
    """A name for tables, one line of explanation, and the rules; no rules means float.

    Attributes:
        dtype: of the parameters and inputs that it is given.
        turned: weights lie ``[out, in]`` instead of ``[in, out]``.
        native: whether kernels may be compiled code of this machine.
        units: what multiplies: "float32", "bfloat16" or "int8".
    """

    name: str
    about: str
    rules: tuple[Rule, ...] = ()
    dtype: str = "float32"
    turned: bool = False
    native: bool = True
    units: str = "float32"


FLOAT = Variant("float32", "the model as it is")

# A few channels of this model are hundreds of times larger than the others, and one scale a token
# rounds those others away. Measured on 4,096 tokens on CPU: one scale a token multiplies perplexity
# by about 1.04, groups of 192 by 1.017, groups of 96 by 1.015, these by 1.010.
W8A8 = Variant(
    "int8 W8A8",
    "every weight int8 per output channel, activations int8 per token in groups of 64",
    (Rule(path="**", weight="int8", act=qpass.int8.grouped(64)),),
    units="int8",
)

W4A16 = Variant(
    "int4 W4A16 g32",
    "layers int4 in groups of 32, the embedding (also the output head) int8; activations float",
    (
        Rule(path="embed/**", weight="int8"),
        Rule(path="layers/**", weight=qpass.int4.grouped(32)),
    ),
)

# The encoder has outliers of its own: mean cosine to float .9975 with one scale a token, .9986 with
# groups of 192, .9992 with groups of 64.
ENCODER_W8A8 = Variant(
    "int8 W8A8",
    "every weight int8 per output channel, activations int8 per token in groups of 64",
    (Rule(path="**", weight="int8", act=qpass.int8.grouped(64)),),
    units="int8",
)

ENCODER_W4A16 = Variant(
    "int4 W4A16 g64",
    "every weight int4 in groups of 64; activations float",
    (Rule(path="**", weight=qpass.int4.grouped(64)),),
)

FLOATS = (
    FLOAT,
    Variant("float32 [out, in]", "weights lie the other way round", turned=True),
    Variant("bfloat16", "parameters and inputs in bfloat16", dtype="bfloat16", units="bfloat16"),
    Variant(
        "bfloat16 [out, in]",
        "bfloat16, weights lie the other way round",
        dtype="bfloat16",
        turned=True,
        units="bfloat16",
    ),
)
"""Floats in both layouts of the weight: which is faster depends on the shape."""
BASE = FLOATS[:2]
"""float32, against whose faster layout every figure is held."""


def _everywhere(name: str, about: str, units: str = "float32", **scheme: Any) -> Variant:
    return Variant(name, about, (Rule(path="**", **scheme),), units=units)


PRODUCT_W8A8 = _everywhere(
    "int8 W8A8",
    "weights int8 per output channel, activations int8 per row",
    "int8",
    weight="int8",
    act="int8",
)
PRODUCT_W8 = _everywhere("int8 W8", "weights int8 per output channel", weight="int8")
PRODUCT_W4 = _everywhere(
    "int4 W4 g32", "weights int4 in groups of 32", weight=qpass.int4.grouped(32)
)
PRODUCT_GROUPED = _everywhere(
    "int8 W8A8 g128",
    "weights and activations int8 in groups of 128",
    "int8",
    weight=qpass.int8.grouped(128),
    act=qpass.int8.grouped(128),
)

DECODER_VARIANTS = (FLOAT, W8A8, W4A16)
ENCODER_VARIANTS = (FLOAT, ENCODER_W8A8, ENCODER_W4A16)
PRODUCT_VARIANTS = (PRODUCT_W8A8, PRODUCT_GROUPED, PRODUCT_W8, PRODUCT_W4)
DECODER_BLOCK_VARIANTS = (W8A8, PRODUCT_W8, PRODUCT_W4)
DECODER_MODEL_VARIANTS = (W8A8, PRODUCT_W8, W4A16)
ENCODER_MODEL_VARIANTS = (ENCODER_W8A8, PRODUCT_W8, ENCODER_W4A16)
"""Schemes of the benchmark; what they are held against is `FLOATS`."""


def without_native(variant: Variant) -> Variant:
    """The same scheme through nothing but what XLA compiles."""
    return replace(variant, name=f"{variant.name} (XLA)", native=False)
