"""Rules by the names that schemes have elsewhere.

Each function gives a `qpass.Rule`; selectors are passed on to it, so that
`presets.int8_dynamic_int4(path="**/mlp/**")` quantizes the layers meant and nothing else.
`PRESETS` lists them all. Bits are those of codes and scales for an element of a stored weight.

>>> from qpass import presets
>>> presets.int8_dynamic_int4(group=32).describe()
'weight=int4 g32 act=int8 asym'
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from qpass.rules import Rule


def int8_weight_only(**selectors: Any) -> Rule:
    """int8 weights per channel, float activations; torchao's `Int8WeightOnlyConfig`."""
    return Rule(weight="int8", **selectors)


def int4_weight_only(group: int = 128, **selectors: Any) -> Rule:
    """int4 weights in groups, symmetric, float activations."""
    return Rule(weight=f"int4 g{group}", **selectors)


def uint4_weight_only(group: int = 128, **selectors: Any) -> Rule:
    """uint4 weights in groups with zero points: torchao's `Int4WeightOnlyConfig`, GPTQ's format."""
    return Rule(weight=f"uint4 g{group} asym", **selectors)


def int8_dynamic_int4(group: int = 32, **selectors: Any) -> Rule:
    """8da4w: int8 activations per token with zero points, int4 weights in groups.

    torchao's `Int8DynamicActivationIntxWeightConfig(int4)`; add `torchao` to the words of both for
    its last bits: `Rule(weight="int4 g32 torchao", act="int8 asym torchao")`.
    """
    return Rule(weight=f"int4 g{group}", act="int8 asym", **selectors)


def int8_dynamic_int8(**selectors: Any) -> Rule:
    """W8A8: int8 per token by int8 per channel: `Int8DynamicActivationInt8WeightConfig`."""
    return Rule(weight="int8", act="int8", **selectors)


def int8_asymmetric_int8(**selectors: Any) -> Rule:
    """W8A8 whose activations have zero points, for those that lie on one side of zero."""
    return Rule(weight="int8", act="int8 asym", **selectors)


def float8_weight_only(**selectors: Any) -> Rule:
    """e4m3 weights per channel, float activations; torchao's `Float8WeightOnlyConfig`."""
    return Rule(weight="fp8_e4m3", **selectors)


def float8_dynamic_float8(**selectors: Any) -> Rule:
    """e4m3 by row in both operands: `Float8DynamicActivationFloat8WeightConfig(PerRow())`."""
    return Rule(weight="fp8_e4m3", act="fp8_e4m3", **selectors)


def float8_blocks(size: int = 128, **selectors: Any) -> Rule:
    """e4m3 weights in square blocks by activations in groups of the same size: DeepSeek-V3's."""
    return Rule(weight=f"fp8_e4m3 b{size}x{size}", act=f"fp8_e4m3 g{size}", **selectors)


def mxfp8(**selectors: Any) -> Rule:
    """Both operands in blocks of 32 e4m3 with a power-of-two scale (OCP Microscaling)."""
    return Rule(weight="mxfp8", act="mxfp8", **selectors)


def mxfp4(**selectors: Any) -> Rule:
    """Weights in blocks of 32 e2m1 with a power-of-two scale, float activations."""
    return Rule(weight="mxfp4", **selectors)


def nvfp4(**selectors: Any) -> Rule:
    """Both operands in blocks of 16 e2m1 with e4m3 scales and one float32 scale for all."""
    return Rule(weight="nvfp4", act="nvfp4", **selectors)


def nf4(group: int = 64, **selectors: Any) -> Rule:
    """NF4 weights in groups of 64, float activations: QLoRA's, without its second quantization."""
    return Rule(weight=f"nf4 g{group}", **selectors)


PRESETS: Mapping[str, Callable[..., Rule]] = MappingProxyType(
    {
        preset.__name__: preset
        for preset in (
            *(int8_weight_only, int4_weight_only, uint4_weight_only, int8_dynamic_int4),
            *(int8_dynamic_int8, int8_asymmetric_int8, float8_weight_only),
            *(float8_dynamic_float8, float8_blocks, mxfp8, mxfp4, nvfp4, nf4),
        )
    }
)
