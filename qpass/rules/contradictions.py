"""Contradictions in a rule: a decision against what it is about, one quantizer against another."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from qpass.errors import RuleError
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.ranges import AbsMax, PowerOfTwo
from qpass.numerics.schemes import Backward
from qpass.rules.caching import check_cache
from qpass.rules.selectors import ATTENTION, WIDER

if TYPE_CHECKING:
    from qpass.rules.rule import Rule

SELECTORS = ("path", "scope", "einsum", "op", "role")
OPERANDS = ("weight", "act", "kv", "grad")
PRODUCTS = ("dlhs", "drhs")
SUMS = "accumulate"
BESIDE = ("lora", "sparsity")
CACHE = ("cache", "store", "per")
WORDS = ("smooth", "keep")
_BACKWARD = frozenset(PRODUCTS)
_OF_ACTIVATIONS = frozenset(WIDER["activations"])


def given_products(rule: Rule) -> dict[str, Backward]:
    """What the rule says of backward products."""
    return {f: p for f in PRODUCTS if isinstance(p := getattr(rule, f), Backward)}


def check_decision(rule: Rule) -> None:
    """Refuse a rule that contradicts itself.

    Raises:
        RuleError: no decision, or what cannot be decided together; the text says the way out.
    """
    fields = (*OPERANDS, *PRODUCTS, SUMS, *BESIDE)
    decided = [field for field in fields if getattr(rule, field) is not None]
    if any(getattr(rule, field) is not None for field in CACHE):
        selectors = [f for f in (*SELECTORS, "where") if getattr(rule, f) is not None]
        words = [word for word in WORDS if getattr(rule, word)]
        return check_cache(rule, [*selectors, *decided, *words])
    if rule.keep and decided:
        raise RuleError(f"Drop keep=True or {decided[0]}=: a rule keeps float or quantizes.")
    if not rule.keep and not decided:
        raise RuleError("Decide something: give weight=, act=, grad= or keep=True.")
    beside = [field for field in BESIDE if getattr(rule, field) is not None]
    if beside and rule.roles != {"forward"}:
        raise RuleError(
            f"Drop role= or {beside[0]}=: what lies beside a weight belongs to forward products."
        )
    if rule.act and not rule.weight and "forward" in rule.roles:
        raise RuleError(
            "Give weight= beside act=: no product takes a quantized activation and a float weight. "
            "For products of two activations write role='activations'."
        )
    if rule.weight and rule.roles <= _OF_ACTIVATIONS:
        raise RuleError(f"Give act= alone: in role={rule.role!r} no operand is a weight.")
    if rule.weight and not (rule.act or rule.grad) and rule.roles == {"drhs"}:
        raise RuleError("Give act= and grad=, or one of them for both: role='drhs' has no weight.")
    if rule.roles == {"lookup"} and set(decided) - {"weight"}:
        extra = next(field for field in decided if field != "weight")
        raise RuleError(f"Drop {extra}=: a look-up of rows multiplies nothing; give weight= alone.")
    if "lookup" in rule.roles and decided and not rule.weight:
        raise RuleError("Give weight= for role='lookup': it is the table that is quantized.")
    _check_sums(rule, decided)
    _check_attention(rule)
    _check_backward(rule)
    _check_groups(rule)
    _check_static(rule)
    _check_hadamard(rule)


def _check_sums(rule: Rule, decided: list[str]) -> None:
    if rule.accumulate and not set(decided) & {*OPERANDS, *PRODUCTS}:
        raise RuleError("Give a quantizer beside accumulate=: sums of float products are JAX's.")


def _check_attention(rule: Rule) -> None:
    if rule.kv and not rule.roles <= set(ATTENTION):
        raise RuleError(
            "Give role='qk' or role='pv' beside kv=: other products have no keys or values."
        )
    if rule.smooth:
        _check_smooth(rule)


def _check_smooth(rule: Rule) -> None:
    quantizer = rule.kv or rule.act
    if rule.roles != {"qk"}:
        raise RuleError("Give role='qk' beside smooth=: it is the mean of keys that is taken off.")
    if not isinstance(quantizer, Quantizer) or quantizer.is_static:
        raise RuleError(
            "Give kv= or act= without static or delayed beside smooth=: what is left without the "
            "mean is quantized by its own range."
        )
    if rule.grad or rule.dlhs or rule.drhs:
        raise RuleError("Drop smooth= or grad=: gradients of smoothed products are float.")


def _check_backward(rule: Rule) -> None:
    products = given_products(rule)
    for field, product in products.items():
        if rule.roles <= _BACKWARD:
            raise RuleError(
                f"Drop {field}=: it is for rules about forward products; a rule with "
                f"role={field!r} takes that product itself."
            )
        if product.grad is None and rule.grad is None:
            raise RuleError(f"Give {field}= a quantizer of the gradient, as {field}='fp8_e5m2'.")
    backward = rule.grad is not None or products
    if backward and not (rule.weight or rule.act or rule.kv) and not rule.roles & _BACKWARD:
        raise RuleError(
            "Give weight= or act= beside grad=: where the forward product is float, so are its "
            "backward products."
        )


def _check_groups(rule: Rule) -> None:
    name = "kv" if rule.kv else "weight"
    weight, act = _group(getattr(rule, name)), _group(rule.act)
    if weight and act and not groups_fit(weight, act):
        raise RuleError(
            f"Give {name}= and act= the same group size, or one that the other is a multiple of: "
            f"the sums are cut where both scales are constant; {name} has groups of {weight}, "
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


def _group(quantizer: Any) -> int | Fraction | None:
    return quantizer.granularity.group if isinstance(quantizer, Quantizer) else None


def _check_static(rule: Rule) -> None:
    """A captured range is one for a whole activation."""
    given = {operand: getattr(rule, operand) for operand in OPERANDS}
    for field, product in given_products(rule).items():
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


def _check_hadamard(rule: Rule) -> None:
    """Ranges from elsewhere are those of values that are not transformed."""
    for field, product in given_products(rule).items():
        if not product.hadamard:
            continue
        forward = rule.act if field == "drhs" else rule.weight or rule.kv or rule.act
        operands = {"gradient": product.grad or rule.grad, "operand": product.operand or forward}
        for name, quantizer in operands.items():
            if isinstance(quantizer, Quantizer) and quantizer.is_static:
                raise RuleError(
                    f"Give the {name} of {field}= a quantizer without static or delayed beside "
                    f"hadamard=True: ranges from elsewhere are those of values that are not "
                    f"transformed; got {quantizer}."
                )
