"""Rule: selectors that choose contractions, and the decision for those that it gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from qpass.errors import QPassError, RuleError
from qpass.numerics.dialects import Dialect
from qpass.numerics.qtypes import QType
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.ranges import AbsMax, PowerOfTwo
from qpass.numerics.schemes import Backward, Scheme, as_quantizer
from qpass.numerics.sparsity import NM
from qpass.ops.lora import LoRA
from qpass.rules.selectors import (
    Selector,
    Where,
    einsum_selector,
    op_selector,
    path_selector,
    role_names,
    role_selector,
    scope_selector,
    where_selector,
)

type Texts = str | Sequence[str] | None
type QuantizerLike = str | QType | Quantizer | None
type BackwardLike = QuantizerLike | Backward

_TEXT_SELECTORS: dict[str, Callable[[tuple[str, ...]], Selector]] = {
    "path": path_selector,
    "scope": scope_selector,
    "einsum": einsum_selector,
    "op": op_selector,
    "role": role_selector,
}
_OPERANDS = ("weight", "act", "grad")
_PRODUCTS = ("dlhs", "drhs")
_BACKWARD = frozenset(_PRODUCTS)
_BESIDE = ("lora", "sparsity")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: all its selectors must fit a contraction; the first rule that fits decides.

    Selectors; a tuple or list of texts means any of them, one that is not given fits everything:
        path: glob over the path of the weight, "params/layers/mlp/up/kernel"; "*" and "?" stay
            within a name, "**" is any number of names, "re:..." a regular expression.
        scope: the same over the scope of the modules.
        einsum: equation of the product, up to names of letters, order of the operands and of the
            output; "..." is any number of dimensions.
        op: "dot_general" (also "einsum", "matmul"), "ragged_dot", "conv", "scaled_dot".
        where: function of the site that says whether it fits.
        role: "forward" (what a rule without `role` means: activation by weight), "activations"
            (neither operand is a weight, as in attention), "dlhs", "drhs" (products of a backward
            pass inside the function: gradient of the activation, of the weight),
            "weights" (both operands are weights), "constant" (the weight is not an argument of the
            function), "tangent" (linear part of a custom_jvp rule), or "*" for all.

    Decision, either `keep` or at least one quantizer:
        weight, act, grad: quantizer of the weight, of the activation, of the gradient that comes
            in: a name such as "int8", "int4 g32" or "int8 qwix", a type such as `qpass.int8`, or
            `qpass.int4.grouped(128)`. They are kept as `Quantizer`. With `grad`, the backward
            products of a forward product are quantized too, by which the gradient of the activation
            (``dlhs``) and of the weight (``drhs``) are computed. In a rule whose `role` is backward
            products, `act` counts for `grad` where that is not given.
        dlhs, drhs: how one backward product differs from what `grad` says: a quantizer of the
            gradient, or a `qpass.Backward`. Without `grad`, the other one stays float.
        lora: a `qpass.LoRA`, an adapter of low rank beside the weight; alone or with quantizers.
        sparsity: a `qpass.NM`, which elements of the weight are zero; alone or with quantizers.
        keep: leave these contractions in float.

    name: what messages and plans call the rule.

    Raises:
        RuleError: a malformed selector, a contradiction, or no decision.
        UnknownTypeError: a numeric type that does not exist.
    """

    path: Texts = None
    scope: Texts = None
    einsum: Texts = None
    op: Texts = None
    where: Where | None = None
    role: Texts = None
    weight: QuantizerLike = None
    act: QuantizerLike = None
    grad: QuantizerLike = None
    dlhs: BackwardLike = None
    drhs: BackwardLike = None
    lora: LoRA | None = None
    sparsity: NM | None = None
    keep: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        try:
            _check_kinds(self)
            for field, value in _normal_values(self).items():
                object.__setattr__(self, field, value)
            self.selectors()
            _check_decision(self)
        except QPassError as error:
            text = self.describe()
            raise type(error)(f"{error} The rule: {text}" if text else str(error)) from None

    def selectors(self) -> tuple[Selector, ...]:
        """Return the questions of this rule, `role` always among them and `where` the last."""
        asked = {field: _texts(getattr(self, field)) for field in _TEXT_SELECTORS}
        asked["role"] = self._roles()
        found = [build(asked[field]) for field, build in _TEXT_SELECTORS.items() if asked[field]]
        return (*found, where_selector(self.where)) if self.where else tuple(found)

    @property
    def roles(self) -> frozenset[str]:
        """Roles that the rule is for."""
        return role_names(self._roles())

    @property
    def scheme(self) -> Scheme | None:
        """Quantizers of the operands, as given; None for a rule that keeps, or gives none."""
        quantizers = [getattr(self, operand) for operand in (*_OPERANDS, *_PRODUCTS)]
        return Scheme(*quantizers) if any(quantizers) else None

    def in_dialect(self, dialect: Dialect) -> "Rule":
        """Return this rule with that dialect for quantizers that name none of their own."""
        given = {f: q for f in _OPERANDS if isinstance(q := getattr(self, f), Quantizer)}
        spoken = {f: _spoken(q, dialect) for f, q in given.items()}
        products = {f: p for f in _PRODUCTS if isinstance(p := getattr(self, f), Backward)}
        for field, product in products.items():
            grad, operand = (_spoken(q, dialect) for q in product.quantizers)
            spoken[field] = replace(product, grad=grad, operand=operand)
        return replace(self, **spoken)

    def describe(self) -> str:
        """Return a short text, such as "path=**/mlp/** weight=int4 g128"."""
        name = f"{self.name}: " if self.name else ""
        selectors = ("path", "scope", "einsum", "op", "where", "role")
        fields = (*selectors, *_OPERANDS, *_PRODUCTS, *_BESIDE)
        shown = [f"{f}={_shown(getattr(self, f))}" for f in fields if getattr(self, f) is not None]
        return name + " ".join([*shown, *(["keep"] if self.keep else [])])

    def _roles(self) -> tuple[str, ...]:
        return _texts(self.role) or ("forward",)


def _spoken(quantizer: Any, dialect: Dialect) -> Any:
    """The quantizer, with that dialect where it names none."""
    return quantizer.in_dialect(dialect) if quantizer and not quantizer.dialect else quantizer


def _texts(value: Texts) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "|".join(map(str, value))
    return getattr(value, "__qualname__", None) or str(value)


def _check_kinds(rule: Rule) -> None:
    for field in _TEXT_SELECTORS:
        _check_texts(field, getattr(rule, field))
    if rule.where is not None and not callable(rule.where):
        raise RuleError(f"Give where= a function of a site; got {rule.where!r}.")
    if not isinstance(rule.keep, bool):
        raise RuleError(f"Give keep=True or leave it out; got {rule.keep!r}.")
    if rule.lora is not None and not isinstance(rule.lora, LoRA):
        raise RuleError(f"Give lora= as qpass.LoRA(rank=8, alpha=16.0); got {rule.lora!r}.")
    if rule.sparsity is not None and not isinstance(rule.sparsity, NM):
        raise RuleError(f"Give sparsity= as qpass.NM(2, 4); got {rule.sparsity!r}.")
    if rule.name is not None and not (isinstance(rule.name, str) and rule.name.strip()):
        raise RuleError(f"Give name= a text that is not empty; got {rule.name!r}.")


def _check_texts(field: str, value: object) -> None:
    if value is None:
        return
    texts = value if isinstance(value, tuple | list) else (value,)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise RuleError(
            f"Give {field}= a text that is not empty, or a tuple of such texts; got {value!r}."
        )


def _normal_values(rule: Rule) -> Mapping[str, object]:
    """Return fields in the form that is kept: quantizers, and tuples for lists."""
    lists = {f: tuple(v) for f in _TEXT_SELECTORS if isinstance(v := getattr(rule, f), list)}
    given = {f: v for f in _OPERANDS if (v := getattr(rule, f)) is not None}
    products = {f: v for f in _PRODUCTS if (v := getattr(rule, f)) is not None}
    return (
        lists
        | {field: as_quantizer(value) for field, value in given.items()}
        | {f: v if isinstance(v, Backward) else Backward(v) for f, v in products.items()}
    )


def _check_decision(rule: Rule) -> None:
    fields = (*_OPERANDS, *_PRODUCTS, *_BESIDE)
    decided = [field for field in fields if getattr(rule, field) is not None]
    if rule.keep and decided:
        raise RuleError(f"Drop keep=True or {decided[0]}=: a rule keeps float or quantizes.")
    if not rule.keep and not decided:
        raise RuleError("Decide something: give weight=, act=, grad= or keep=True.")
    beside = [field for field in _BESIDE if getattr(rule, field) is not None]
    if beside and rule.roles != {"forward"}:
        raise RuleError(
            f"Drop role= or {beside[0]}=: what lies beside a weight belongs to forward products."
        )
    if rule.act and not rule.weight and "forward" in rule.roles:
        raise RuleError(
            "Give weight= beside act=: no product takes a quantized activation and a float weight. "
            "For products of two activations write role='activations'."
        )
    if rule.weight and rule.roles == {"activations"}:
        raise RuleError("Give act= alone: in role='activations' no operand is a weight.")
    if rule.weight and not (rule.act or rule.grad) and rule.roles == {"drhs"}:
        raise RuleError("Give act= and grad=, or one of them for both: role='drhs' has no weight.")
    _check_backward(rule)
    _check_groups(rule)
    _check_static(rule)


def _check_backward(rule: Rule) -> None:
    products = {f: p for f in _PRODUCTS if isinstance(p := getattr(rule, f), Backward)}
    for field, product in products.items():
        if rule.roles <= _BACKWARD:
            raise RuleError(
                f"Drop {field}=: it is for rules about forward products; a rule with "
                f"role={field!r} takes that product itself."
            )
        if product.grad is None and rule.grad is None:
            raise RuleError(f"Give {field}= a quantizer of the gradient, as {field}='fp8_e5m2'.")
    backward = rule.grad is not None or products
    if backward and not (rule.weight or rule.act) and not rule.roles & _BACKWARD:
        raise RuleError(
            "Give weight= or act= beside grad=: where the forward product is float, so are its "
            "backward products."
        )


def _check_groups(rule: Rule) -> None:
    weight, act = _group(rule.weight), _group(rule.act)
    if weight and act and not groups_fit(weight, act):
        raise RuleError(
            f"Give weight= and act= the same group size, or one that the other is a multiple of: "
            f"the sums are cut where both scales are constant; weight has groups of {weight}, "
            f"act groups of {act}."
        )


def groups_fit(one: int | Fraction, other: int | Fraction) -> bool:
    """Whether every group of one size ends where a group of the other does.

    A size given as one over the number of groups says so only with the length of the axis; taken
    to fit a size that is a number.
    """
    if (one < 1) != (other < 1):
        return True
    larger, smaller = max(one, other), min(one, other)
    return larger % smaller == 0


def _group(quantizer: QuantizerLike) -> int | Fraction | None:
    return quantizer.granularity.group if isinstance(quantizer, Quantizer) else None


def _check_static(rule: Rule) -> None:
    """A captured range is one for a whole activation."""
    given = {operand: getattr(rule, operand) for operand in _OPERANDS}
    for field in _PRODUCTS:
        if isinstance(product := getattr(rule, field), Backward):
            given |= {f"{field} grad": product.grad, f"{field} operand": product.operand}
    static = {
        name: q
        for name, q in given.items()
        if isinstance(q, Quantizer) and q.is_static and not q.delayed_range
    }
    learned = [n for n, q in given.items() if isinstance(q, Quantizer) and q.is_learned]
    if any(name != "weight" and (name != "act" or name not in static) for name in learned):
        raise RuleError(
            "Give lsq to weight=, or to act= as 'int8 lsq static': a learned range is one that the "
            "operand has before the product runs."
        )
    if "weight" in static:
        raise RuleError("Drop static from weight=: the range of a weight is that of its values.")
    for name, quantizer in static.items():
        if quantizer.granularity.group or quantizer.range not in (AbsMax(), PowerOfTwo()):
            raise RuleError(
                f"Give {name}= static without groups, blocks or a range: all of a static operand "
                f"has one range, that which was captured; got {quantizer}."
            )
