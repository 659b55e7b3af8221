"""Which tensors of a file are quantized, and along which axes: as the user says, or as a plan says.

Axes are never guessed. A name does not tell what a product contracts, and neither does a shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from qpass.checkpoint.containers import structure
from qpass.checkpoint.formats.tensors import Tensors
from qpass.checkpoint.likeness import Form, differences, forms
from qpass.checkpoint.stream import Job
from qpass.errors import CheckpointError, RuleError
from qpass.numerics import QTensor, Quantizer, as_quantizer
from qpass.ops.weights import Storage
from qpass.plan import Plan
from qpass.rules.globs import path_test

type Axes = tuple[int, ...]


@dataclass(frozen=True)
class Wish:
    """What becomes of the tensors whose path fits.

    Attributes:
        path: a glob as in rules, in which names are joined by "/".
        weight: the quantizer; None: they are kept.
        contract: axes that products sum over.
        separate: axes that no product sees, such as that of stacked layers.
        matrices: leave tensors alone that have not two axes.
    """

    path: str
    weight: Quantizer | None
    contract: Axes = ()
    separate: Axes = ()
    matrices: bool = False

    def __str__(self) -> str:
        return f"path={self.path}"


def read_wish(text: str, contract: Axes) -> Wish:
    """A rule of the command line, as "path=**/mlp/**,weight=int4 g32,contract=1,separate=0".

    Axes are joined by "|". Commas inside of a quantizer, as in "rms,7", stay with it.

    Args:
        text: the rule.
        contract: axes where it names none.

    Raises:
        RuleError: it has another form, or no axis is said.
    """
    fields: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals and key.strip() in ("path", "weight", "contract", "separate"):
            last = key.strip()
            if last in fields:
                raise RuleError(f"Give {last}= once; {text!r} has it twice.")
            fields[last] = value.strip()
        elif last == "weight":
            fields[last] += f",{part}"
        else:
            raise RuleError(
                f"Write a rule as 'path=**/mlp/**,weight=int4 g32,contract=1'; got {text!r}."
            )
    if "path" not in fields or "weight" not in fields:
        raise RuleError(f"Give path= and weight= in the rule {text!r}.")
    axes = read_axes(fields["contract"]) if "contract" in fields else contract
    separate = read_axes(fields["separate"]) if "separate" in fields else ()
    return Wish(fields["path"], as_quantizer(fields["weight"]), _said(axes, text), separate)


def read_axes(text: str) -> Axes:
    """Axes joined by "|".

    Raises:
        RuleError: these are no whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split("|"))
    except ValueError:
        raise RuleError(f"Give axes as whole numbers, as '1' or '0|1'; got {text!r}.") from None


def _said(axes: Axes, text: str) -> Axes:
    if not axes:
        raise RuleError(
            f"Say which axis of the weight products sum over, for {text!r}: contract=1 for "
            "matrices [out, in] as PyTorch's Linear has them, contract=0 for [in, out] as x @ w "
            "has them; or give --fn, whose program says it."
        )
    return axes


def wishes(weight: str, rules: Sequence[str], keep: Sequence[str], contract: str) -> list[Wish]:
    """The options of the command in order: what is kept, rules, and matrices that are left.

    Raises:
        RuleError: an option that is not understood, or nothing to quantize.
    """
    axes = read_axes(contract) if contract else ()
    found = [Wish(path, None) for path in keep]
    found += [read_wish(text, axes) for text in rules]
    if weight:
        found.append(Wish("**", as_quantizer(weight), _said(axes, weight), matrices=True))
    if not weight and not rules:
        raise RuleError("Give --weight, --rule or --fn: nothing is to be quantized.")
    return found


def job_of_wishes(tensors: Tensors, asked: Sequence[Wish]) -> Job:
    """The job of those wishes, of which the first that fits a tensor decides.

    Raises:
        RuleError: a wish that fits no tensor, or whose axes the tensor has not.
    """
    tests = [path_test(wish.path) for wish in asked]
    used: set[int] = set()
    leaves = {}
    for name in sorted(tensors):
        path = name.replace(".", "/")
        first = next((k for k, fits in enumerate(tests) if fits(path)), None)
        used |= set() if first is None else {first}
        wish = None if first is None else asked[first]
        leaves[name] = (name, None if wish is None else _storage(tensors, name, wish))
    if unused := [str(wish) for k, wish in enumerate(asked) if k not in used]:
        raise RuleError(
            f"Give patterns that fit a tensor; {', '.join(unused)} fit none (or none that those "
            f"before left). Dots in names count as '/'; there is {', '.join(sorted(tensors)[:3])}."
        )
    if not any(storage for _, storage in leaves.values()):
        raise RuleError("Give patterns that fit weights: no tensor would be quantized.")
    record = {"by": "qpass quantize", "wishes": [_plain(wish) for wish in asked]}
    return Job(tensors, leaves, {"dict": {n: k for k, n in enumerate(leaves)}}, record)


def _storage(tensors: Tensors, name: str, wish: Wish) -> Storage | None:
    stored = tensors.at(name)
    ndim, floating = len(stored.shape), jnp.issubdtype(stored.dtype, jnp.floating)
    if wish.weight is None or (wish.matrices and (not floating or ndim < 2)):
        return None
    if wish.matrices and ndim != 2:
        raise RuleError(
            f"Give a --rule with contract= (and separate= for stacked layers), or --keep, for "
            f"{tensors.where(name)}: it is no matrix but {list(stored.shape)}."
        )
    axes = wish.contract + wish.separate
    counted = {axis % ndim for axis in axes} if ndim else set()
    if any(not -ndim <= axis < ndim for axis in axes) or len(counted) < len(axes):
        raise RuleError(
            f"Give distinct axes of {tensors.where(name)} in {wish}: its shape is "
            f"{list(stored.shape)}; got contract={wish.contract}, separate={wish.separate}."
        )
    contract = tuple(sorted(axis % ndim for axis in wish.contract))
    return Storage(wish.weight, contract, tuple(sorted(axis % ndim for axis in wish.separate)))


def _plain(wish: Wish) -> dict[str, Any]:
    axes = {"contract": list(wish.contract), "separate": list(wish.separate)}
    return {"path": wish.path, "weight": wish.weight and str(wish.weight), **axes}


def job_of_plan(tensors: Tensors, plan: Plan, quantized: Any, plan_json: Any) -> Job:
    """The job of a plan, which says which leaves are stored and how.

    Args:
        tensors: named as the leaves, with "/" or "." between names.
        plan: of the function on float parameters.
        quantized: what `quantize` gives for it, abstract.
        plan_json: the plan as the result keeps it.

    Raises:
        CheckpointError: tensors that are missing, unexpected, or of another shape or dtype.
    """
    if plan.masked:
        raise CheckpointError("Quantize sparse weights by q.quantize: their masks are no tensors.")
    by_path = {leaf.path: k for k, leaf in enumerate(plan.program.leaves) if leaf.is_param}
    wanted = {path: _float_form(plan, by_path[path]) for path in forms(quantized)}
    named = _names(tensors, wanted)
    saved = {
        path: Form({"": ((s := tensors.at(name)).dtype.name, s.shape)})
        for path, name in named.items()
    }
    if found := differences(saved, wanted):
        raise CheckpointError(
            f"Give the parameters of the function of --fn: the files differ from it in {found}."
        )
    leaves = {path: (named[path], plan.storage.get(by_path[path])) for path in wanted}
    tree = structure(quantized, lambda x: isinstance(x, QTensor))
    record = {"by": "qpass quantize", "rules": [rule.describe() for rule in plan.rules]}
    return Job(tensors, leaves, tree, record, plan_json)


def _float_form(plan: Plan, leaf: int) -> Form:
    aval = plan.program.jaxpr.invars[leaf].aval
    return Form({"": (aval.dtype.name, tuple(aval.shape))})


def _names(tensors: Tensors, wanted: Mapping[str, Any]) -> dict[str, str]:
    """The tensor of each path, and those that no path asks for under their own name."""
    by_path: dict[str, str] = {}
    for name in tensors:
        path = name if name in wanted else name.replace(".", "/")
        if path in by_path:
            raise CheckpointError(f"Rename {name} or {by_path[path]}: both are {path}.")
        by_path[path] = name
    return by_path
