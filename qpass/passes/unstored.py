"""Weights that are quantized on every call for want of being stored: why, its cost, the way out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qpass.graph.dataflow import Use
from qpass.numerics import PerTensor, Quantizer
from qpass.ops.weights import Storage, stored_nbytes
from qpass.plan import Decision, Plan
from qpass.suggest import listing
from qpass.views.units import bytes_text

SHOWN = 3
NO_PART = "weight='{type} tensor' has one scale for all of the leaf, which fits every part of it."
ANY_AXIS = "Multiply by the leaf itself, before it is broadcast."
NOT_FOLLOWED = "Store the leaf as the product reads it, or choose weight= per channel."
BY_STEPS = (
    "Store weights by rules without 'delayed': the scale of a stored weight is that of its values."
)
OWN_COPY = "pass one of them a copy of the leaf"


@dataclass(frozen=True)
class Unstored:
    """Why a leaf stays float though products quantize it.

    Attributes:
        reason: in words, naming sites or lines.
        way_out: what would have it stored; a sentence.
        storage: how it would be stored otherwise; None where that cannot be said.
    """

    reason: str
    way_out: str
    storage: Storage | None = None


def one_scale(quantizer: Quantizer) -> bool:
    """Whether scales do not depend on the axes that a product contracts."""
    return isinstance(quantizer.granularity, PerTensor)


def two_wishes(first: tuple[str, Storage], other: tuple[str, Storage]) -> Unstored:
    """Two products, given by id and the storage each wants, that do not agree."""
    (here, mine), (there, its) = first, other
    reason = f"{here} wants {mine}, {there} wants {its}"
    if mine.quantizer != its.quantizer:
        return Unstored(reason, f"Give both the same weight= in the rules, or {OWN_COPY}.", mine)
    tensor = f"weight='{mine.quantizer.qtype.name} tensor'"
    return Unstored(
        reason, f"Give both {tensor}, whose one scale serves every axis, or {OWN_COPY}.", mine
    )


def kept_by_product(reader: Decision, storage: Storage) -> Unstored:
    """A product that stays float reads the leaf too."""
    site = reader.site
    reason = f"it is also read by {site.id}, which stays float ({reader.reason})"
    if site.role not in ("forward", "weights"):
        return Unstored(reason, _FLOAT_READER, storage)
    rule = f"Quantize {site.id} with weight='{storage.quantizer}' too, or {OWN_COPY}."
    return Unstored(reason, rule, storage)


def read_as_float(use: Use, storage: Storage) -> Unstored:
    """Something that is no product reads the leaf."""
    where = f" at {use.source}" if use.source else ""
    return Unstored(f"it is also read by {use.op}{where}", _FLOAT_READER, storage)


_FLOAT_READER = (
    "Such a reader needs the float value: pass it a copy of the leaf, or transform a function "
    "without it."
)


def note(plan: Plan, leaf: int, unstored: Unstored) -> str:
    """What each of the products says of it."""
    size = _size_text(plan, [(leaf, unstored)])
    return f"weight stays float ({size}) and is quantized on every call: {unstored.reason}"


def findings(plan: Plan, refused: Mapping[int, Unstored]) -> tuple[str, ...]:
    """One text for all leaves that the same would help."""
    by_way: dict[str, list[tuple[int, Unstored]]] = {}
    for leaf, unstored in refused.items():
        by_way.setdefault(unstored.way_out, []).append((leaf, unstored))
    return tuple(_finding(plan, way, group) for way, group in by_way.items())


def _finding(plan: Plan, way_out: str, group: Sequence[tuple[int, Unstored]]) -> str:
    names = listing((plan.program.leaves[leaf].path for leaf, _ in group), SHOWN)
    verb, others = ("stays", "") if len(group) == 1 else ("stay", "; the others likewise")
    size = _size_text(plan, group)
    reason = group[0][1].reason
    return f"{names} {verb} float ({size}), quantized on every call: {reason}{others}. {way_out}"


def _size_text(plan: Plan, group: Sequence[tuple[int, Unstored]]) -> str:
    """What the leaves take, and what they would take if they were stored."""
    avals = [(plan.program.jaxpr.invars[leaf].aval, unstored) for leaf, unstored in group]
    before = sum(aval.size * aval.dtype.itemsize for aval, _ in avals)
    storages = [(aval, u.storage) for aval, u in avals if u.storage is not None]
    if len(storages) < len(avals):
        return bytes_text(before)
    after = sum(stored_nbytes(aval, storage) for aval, storage in storages)
    return f"{bytes_text(before)}, stored {bytes_text(after)}"
