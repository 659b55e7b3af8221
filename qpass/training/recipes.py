"""Rules for training by the names that recipes have in MaxText and Transformer Engine.

Each function gives a `qpass.Rule` (`intmp` several); selectors are passed on to it, as in
`recipes.fp8_full(path="**/layers/**")`, which is what MaxText quantizes. `RECIPES` lists them all.

>>> from qpass.training import recipes
>>> recipes.fp8_current_scaling().describe()
'weight=fp8_e4m3 tensor act=fp8_e4m3 tensor grad=fp8_e5m2 tensor'
"""

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qpass.errors import RuleError
from qpass.numerics import Delayed, Quantizer, Range, as_quantizer
from qpass.numerics.schemes import Backward
from qpass.rules import Rule
from qpass.suggest import did_you_mean, listing


def fp8_delayed_scaling(
    length: int = 1024,
    margin: int = 0,
    most_recent: bool = False,
    forward: str = "fp8_e4m3",
    backward: str = "fp8_e5m2",
    **selectors: Any,
) -> Rule:
    """One scale for each tensor, from earlier steps: Transformer Engine's `DelayedScaling`.

    Args:
        length: of the history.
        margin: powers of two left free above the largest magnitude.
        most_recent: the last step alone counts.
        forward: type of activations and weights.
        backward: type of gradients.
        **selectors: of the rule.
    """
    how = Delayed(length, margin, most_recent)
    kept = as_quantizer(forward).ranged(how)
    return Rule(weight=kept, act=kept, grad=as_quantizer(backward).ranged(how), **selectors)


def fp8_current_scaling(**selectors: Any) -> Rule:
    """One scale for each tensor, from its own values: `Float8CurrentScaling`."""
    forward = "fp8_e4m3 tensor"
    return Rule(weight=forward, act=forward, grad="fp8_e5m2 tensor", **selectors)


def fp8_blocks(size: int = 128, **selectors: Any) -> Rule:
    """Weights in squares, the rest in rows of blocks, powers of two: `Float8BlockScaling`."""
    rows = f"fp8_e4m3 g{size} pow2"
    return Rule(weight=f"fp8_e4m3 b{size}x{size} pow2", act=rows, grad=rows, **selectors)


def mxfp8(**selectors: Any) -> Rule:
    """All operands in blocks of 32 e4m3 with a power-of-two scale: `MXFP8BlockScaling`."""
    return Rule(weight="mxfp8", act="mxfp8", grad="mxfp8", **selectors)


def nvfp4(hadamard: bool = False, **selectors: Any) -> Rule:
    """All operands in blocks of 16 e2m1, gradients rounded stochastically: `NVFP4BlockScaling`.

    Weights in squares of 16, so that both products that read them have the same codes.

    Args:
        hadamard: whether both operands of the gradient of the weight are mixed by Hadamard matrices
            before they are quantized (`disable_rht` is the opposite).
        **selectors: of the rule.
    """
    drhs = Backward(hadamard=True) if hadamard else None
    return Rule(weight="nvfp4 b16x16", act="nvfp4", grad="nvfp4 sr", drhs=drhs, **selectors)


def int8(shards: int = 1, **selectors: Any) -> Rule:
    """int8 in all three products; MaxText's `int8`.

    Args:
        shards: in how many parts the sum over tokens is cut in the gradient of the weight, each
            with scales of its own (`quantization_local_shard_count`).
        **selectors: of the rule.
    """
    return _alike("int8", shards, selectors)


def int4(shards: int = 1, **selectors: Any) -> Rule:
    """int4 in all three products; MaxText's `int4`."""
    return _alike("int4", shards, selectors)


def fp8(shards: int = 1, **selectors: Any) -> Rule:
    """e4m3 by channel in all three products; MaxText's `fp8` with Qwix."""
    return _alike("fp8_e4m3", shards, selectors)


def fp8_full(
    weight: str | Range = "absmax",
    act: str | Range = "absmax",
    grad: str | Range = "absmax",
    **selectors: Any,
) -> Rule:
    """e4m3 forward and e5m2 gradients by channel; MaxText's `fp8_full`.

    Args:
        weight: range of weights, as `"fixed,-224,224"` (`weight_quantization_calibration_method`).
        act: range of activations.
        grad: range of gradients.
        **selectors: of the rule.
    """
    forward, backward = as_quantizer("fp8_e4m3"), as_quantizer("fp8_e5m2")
    return Rule(
        weight=forward.ranged(weight),
        act=forward.ranged(act),
        grad=backward.ranged(grad),
        **selectors,
    )


def fp8_gpu(**selectors: Any) -> Rule:
    """Flax's `Fp8DirectDotGeneralOp`, delayed scaling; MaxText's `fp8_gpu`."""
    return fp8_delayed_scaling(**selectors)


def fp8_nanoo(**selectors: Any) -> Rule:
    """Flax's `NANOOFp8DotGeneralOp`, delayed scaling of AMD's types; MaxText's `fp8_nanoo`."""
    return fp8_delayed_scaling(forward="fp8_e4m3fnuz", backward="fp8_e5m2fnuz", **selectors)


def aqt_fp8(**selectors: Any) -> Rule:
    """e4m3 forward, float gradients; MaxText's `aqt_fp8`."""
    return Rule(weight="fp8_e4m3", act="fp8_e4m3", **selectors)


def aqt_fp8_full(bounds: tuple[float, ...] | None = None, **selectors: Any) -> Rule:
    """e4m3 forward and e5m2 in both operands of the backward products; MaxText's `aqt_fp8_full`.

    Args:
        bounds: fixed largest magnitudes of the six operands (`constant_bound_config`): of forward,
            dlhs and drhs the left and the right one. In dlhs the left one is the gradient and the
            right one the weight, in drhs the gradient and the activation.
        **selectors: of the rule.

    Raises:
        RuleError: not six of them.
    """
    if bounds is not None and len(bounds) != 6:
        raise RuleError(
            f"Give aqt_fp8_full six bounds: (forward lhs, forward rhs, dlhs lhs, dlhs rhs, drhs "
            f"lhs, drhs rhs); got {bounds!r}."
        )
    types = ("fp8_e4m3", "fp8_e4m3", *["fp8_e5m2"] * 4)
    ranges = ["absmax"] * 6 if bounds is None else [f"fixed,{bound}" for bound in bounds]
    act, weight, grad, of_weight, other, of_act = (
        as_quantizer(name).ranged(how) for name, how in zip(types, ranges, strict=True)
    )
    dlhs, drhs = Backward(grad, of_weight), Backward(other, of_act)
    return Rule(weight=weight, act=act, dlhs=dlhs, drhs=drhs, **selectors)


def intmp(config: str | Path | Mapping[str, Any]) -> tuple[Rule, ...]:
    """MaxText's mixed precision, float gradients; its JSON file or what that holds.

    Keys are regular expressions that fit the whole path of a module; the last that fits decides, so
    rules are in reverse. `__default__` holds for modules that none fits, and for fields not given:
    `w_bits` and `a_bits` (null: float), `w_scale` and `a_scale` (below 1 the range is clipped),
    `tile_size` (-1: none).

    Args:
        config: path of the file, or a dict.

    Raises:
        RuleError: something else, an unknown field, or quantized activations by float weights.
    """
    known = json.loads(Path(config).read_text()) if isinstance(config, str | Path) else config
    if not isinstance(known, Mapping) or not all(isinstance(v, Mapping) for v in known.values()):
        raise RuleError(f"Give intmp a dict of dicts by module, or its JSON file; got {known!r}.")
    default = {**_FLOAT, **_checked("__default__", known.get("__default__", {}))}
    layers = {name: fields for name, fields in known.items() if name != "__default__"}
    rules = [
        _of_layer(name, {**default, **_checked(name, fields)}, path=_path(name))
        for name, fields in reversed(layers.items())
    ]
    return (*rules, _of_layer("__default__", default))


_FLOAT = {"w_bits": None, "a_bits": None, "w_scale": 1.0, "a_scale": 1.0, "tile_size": -1}


def _checked(name: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = [field for field in fields if field not in _FLOAT]
    if unknown:
        raise RuleError(
            f"Give intmp the fields {listing(_FLOAT)}; {name!r} has {unknown[0]!r}: "
            f"{did_you_mean(unknown[0], _FLOAT)}"
        )
    return fields


def _path(module: str) -> str:
    """The weights of the modules that a regular expression fits."""
    return f"re:(params/)?({module})/[^/]+"


def _of_layer(name: str, fields: Mapping[str, Any], **selectors: Any) -> Rule:
    weight = _bits(fields["w_bits"], fields["w_scale"], fields["tile_size"])
    act = _bits(fields["a_bits"], fields["a_scale"], fields["tile_size"])
    if weight is None and act is not None:
        raise RuleError(
            f"Give w_bits beside a_bits for {name!r}: no product takes a quantized activation and "
            "a float weight."
        )
    return Rule(weight=weight, act=act, keep=weight is None, name=name, **selectors)


def _bits(bits: int | None, scale: float, tile: int) -> Quantizer | None:
    if bits is None:
        return None
    quantizer = as_quantizer(f"int{bits}" + (f" g{tile}" if tile > 0 else ""))
    return quantizer.ranged(f"absmax,{scale}") if scale < 1 else quantizer


def _alike(name: str, shards: int, selectors: Mapping[str, Any]) -> Rule:
    """One type for everything, and local scales in the gradient of the weight."""
    if shards < 1:
        raise RuleError(f"Cut the gradient of the weight in 1 part or more; got shards={shards}.")
    local = as_quantizer(name).grouped(Fraction(1, shards)) if shards > 1 else None
    drhs = Backward(local, local) if local else None
    return Rule(weight=name, act=name, grad=name, drhs=drhs, **selectors)


def te_nvfp4(**selectors: Any) -> Rule:
    """`nvfp4` with Hadamard matrices; MaxText's `te_nvfp4`."""
    return nvfp4(hadamard=True, **selectors)


RECIPES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **{
            recipe.__name__: recipe
            for recipe in (
                *(fp8_delayed_scaling, fp8_current_scaling, fp8_blocks, mxfp8, nvfp4),
                *(int8, int4, fp8, fp8_full, fp8_gpu, fp8_nanoo, aqt_fp8, aqt_fp8_full),
                *(intmp, te_nvfp4),
            )
        },
        "te_fp8_delayedscaling": fp8_delayed_scaling,
        "te_fp8_currentscaling": fp8_current_scaling,
        "te_mxfp8": mxfp8,
        "te_nvfp4_no_rht": nvfp4,
        "nanoo_fp8": fp8_nanoo,
    }
)


def recipe(name: str, *args: Any, **options: Any) -> Any:
    """The rules of a recipe given by name, as MaxText's `quantization=` has it.

    Args:
        name: a key of `RECIPES`.
        *args: of the recipe.
        **options: of the recipe, and selectors.

    Raises:
        RuleError: there is no such recipe.
    """
    if name not in RECIPES:
        raise RuleError(f"Name a recipe; {name!r} is none: {did_you_mean(name, RECIPES)}")
    return RECIPES[name](*args, **options)
