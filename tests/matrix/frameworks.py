"""Rows and columns of the matrix, and why some of its cells are empty."""

from functools import cache
from importlib import import_module
from types import MappingProxyType

from tests.matrix.subject import Subject
from tests.matrix.transforms import TRANSFORMS, Transform

# Column -> the package that it needs, and the function in `models` that makes it
FRAMEWORKS = MappingProxyType(
    {
        "functions, dicts": ("jax", "plain.dictionary"),
        "dataclasses": ("jax", "plain.dataclasses"),
        "Linen": ("flax", "linen.subject"),
        "NNX, split and merge": ("flax", "nnx.split_and_merge"),
        "NNX, model object": ("flax", "nnx.model_object"),
        "NNX ↔ Linen": ("flax", "nnx.bridged"),
        "Equinox": ("equinox", "equinox_modules.subject"),
        "Haiku": ("haiku", "haiku_modules.subject"),
        "optax step": ("optax", "optax_step.subject"),
    }
)
OWN = MappingProxyType({f"own {kind}": kind for kind in ("jit", "grad", "vmap", "scan", "remat")})
ROWS = (*(transform.name for transform in TRANSFORMS), *OWN)

NONE_OF_ITS_OWN = "It has no transforms of its own; its users write JAX's, above."
EMPTY = MappingProxyType(
    {
        **{
            (column, row): NONE_OF_ITS_OWN
            for column in FRAMEWORKS
            for row in OWN
            if column not in ("Linen", "NNX, model object", "Equinox", "Haiku")
        },
        ("Equinox", "own scan"): "Equinox has no scan of its own; the model uses `lax.scan`.",
        ("Haiku", "own jit"): "Haiku has no jit of its own; an `apply` is jitted by JAX.",
    }
)
FORWARD_ONLY = (
    "JAX has no reverse mode for a `while_loop`, of float models neither; "
    "the derivative is checked in forward mode."
)
MAPPED_TABLE = (
    "When qpass transforms the mapped function, each model looks its own rows up. The plan notes "
    "that this reads the float table; the product with it is quantized all the same."
)
REMARKS = MappingProxyType(
    {
        **{(column, "`while_loop`"): FORWARD_ONLY for column in FRAMEWORKS},
        ("Linen", "`vmap` over weights"): MAPPED_TABLE,
    }
)


@cache
def subject(column: str) -> Subject:
    """The model of a column."""
    module, _, function = FRAMEWORKS[column][1].partition(".")
    return getattr(import_module(f"tests.matrix.models.{module}"), function)()


def transform(column: str, row: str) -> Transform:
    """What a row means for a column; the two have a cell."""
    if row in OWN:
        return subject(column).own[OWN[row]]
    return next(each for each in TRANSFORMS if each.name == row)
