"""The rules that the demo and the benchmarks run: what a user would write."""

from __future__ import annotations

from dataclasses import dataclass

import qpass
from qpass import Rule


@dataclass(frozen=True)
class Variant:
    """A name for tables, one line of explanation, and the rules; no rules means float."""

    name: str
    about: str
    rules: tuple[Rule, ...] = ()


FLOAT = Variant("float32", "the model as it is")

# A few channels of this model are hundreds of times larger than the others, and one scale a token
# rounds those others away. Measured on 4,096 tokens on CPU: one scale a token multiplies perplexity
# by about 1.04, groups of 192 by 1.017, groups of 96 by 1.015, these by 1.010. Sixteen groups are
# as many as the CPU's product for one row takes at no cost, and `down` contracts 1,536 elements.
W8A8 = Variant(
    "int8 W8A8",
    "every weight int8 per output channel, activations int8 per token in groups of 64 (down: 96)",
    (
        Rule(path="**/down/**", weight="int8", act=qpass.int8.grouped(96)),
        Rule(path="**", weight="int8", act=qpass.int8.grouped(64)),
    ),
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
)

ENCODER_W4A16 = Variant(
    "int4 W4A16 g64",
    "every weight int4 in groups of 64; activations float",
    (Rule(path="**", weight=qpass.int4.grouped(64)),),
)

PRODUCT_W8A8 = Variant(
    "int8 W8A8",
    "the weight int8 per output channel, the activations int8 per row",
    (Rule(path="**", weight="int8", act="int8"),),
)

PRODUCT_W4A16 = Variant(
    "int4 W4A16 g32",
    "the weight int4 in groups of 32; activations float",
    (Rule(path="**", weight=qpass.int4.grouped(32)),),
)

DECODER_VARIANTS = (FLOAT, W8A8, W4A16)
ENCODER_VARIANTS = (FLOAT, ENCODER_W8A8, ENCODER_W4A16)
PRODUCT_VARIANTS = (FLOAT, PRODUCT_W8A8, PRODUCT_W4A16)
