"""Rule: selectors that choose contractions, and the decision for those that it gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qpass.errors import QPassError, RuleError
from qpass.numerics.dialects import Dialect
from qpass.numerics.qtypes import QType
from qpass.numerics.quantizer import Quantizer
from qpass.numerics.schemes import Backward, Scheme, as_accumulator, as_quantizer
from qpass.numerics.sparsity import NM
from qpass.ops.lora import LoRA
from qpass.rules.contradictions import (
    BESIDE,
    CACHE,
    OPERANDS,
    PRODUCTS,
    SUMS,
    WORDS,
    check_decision,
    given_products,
)
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
        role: "forward" (what a rule without `role` means: activation by weight), "qk",
            "pv" (of attention: queries by keys, probabilities by values), "activations" (these and
            all other products of two activations), "dlhs", "drhs" (products of a backward pass
            inside the function: gradient of the activation, of the weight),
            "weights" (both operands are weights), "constant" (the weight is not an argument of the
            function), "tangent" (linear part of a custom_jvp rule), "*" for all of these, or
            "lookup" (rows of the weight are gathered).

    Decision, either `keep` or at least one quantizer:
        weight, act, grad: quantizer of the weight, of the activation, of the gradient that comes
            in: a name such as "int8", "int4 g32" or "int8 qwix", a type such as `qpass.int8`, or
            `qpass.int4.grouped(128)`. They are kept as `Quantizer`. With `grad`, the backward
            products of a forward product are quantized too, by which the gradient of the activation
            (``dlhs``) and of the weight (``drhs``) are computed. In a rule whose `role` is backward
            products, `act` counts for `grad` where that is not given.
        kv: quantizer of keys or values in products of attention; `act` is then that of queries or
            probabilities, float without it. Where `kv` is not given, `act` is that of both.
        smooth: take the mean over positions off the keys (`role="qk"`) before they are quantized,
            and add its product, in float, to the result.
        dlhs, drhs: how one backward product differs from what `grad` says: a quantizer of the
            gradient, or a `qpass.Backward`. Without `grad`, the other one stays float.
        accumulate: dtype in which kernels hand over sums of products, times their scales:
            "float32", "bfloat16" or "float16"; of all three products. Not given: that of the
            result.
        lora: a `qpass.LoRA`, an adapter of low rank beside the weight; alone or with quantizers.
        sparsity: a `qpass.NM`, which elements of the weight are zero; alone or with quantizers.
        keep: leave these contractions in float.

    Of a cache, an input that is updated and given back, instead of both:
        cache: glob over its path, with or without the name of its argument.
        store: quantizer of what is written into it: "int8", "int4 g32", "fp8_e4m3".
        per: what has a scale of its own: "token" (each token, of each head), or the axes of the
            cache that have one for each index. `docs/cache.md`.

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
    kv: QuantizerLike = None
    grad: QuantizerLike = None
    dlhs: BackwardLike = None
    drhs: BackwardLike = None
    accumulate: Any = None
    lora: LoRA | None = None
    sparsity: NM | None = None
    cache: Texts = None
    store: QuantizerLike = None
    per: str | Sequence[int] | None = None
    smooth: bool = False
    keep: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        try:
            _check_kinds(self)
            for field, value in _normal_values(self).items():
                object.__setattr__(self, field, value)
            self.selectors()
            check_decision(self)
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
        """Quantizers of the operands, `kv` as the weight's; None where the rule gives none."""
        fields: tuple[str, ...] = ("weight" if self.weight else "kv", "act", "grad", *PRODUCTS)
        quantizers = [getattr(self, field) for field in fields]
        return Scheme(*quantizers, accumulate=self.accumulate) if any(quantizers) else None

    def in_dialect(self, dialect: Dialect) -> "Rule":
        """Return this rule with that dialect for quantizers that name none of their own."""
        given = {f: q for f in (*OPERANDS, "store") if isinstance(q := getattr(self, f), Quantizer)}
        spoken = {f: _spoken(q, dialect) for f, q in given.items()}
        for field, product in given_products(self).items():
            grad, operand = (_spoken(q, dialect) for q in product.quantizers)
            spoken[field] = replace(product, grad=grad, operand=operand)
        return replace(self, **spoken)

    def describe(self) -> str:
        """Return a short text, such as "path=**/mlp/** weight=int4 g128"."""
        name = f"{self.name}: " if self.name else ""
        selectors = ("path", "scope", "einsum", "op", "where", "role")
        fields = (*selectors, *OPERANDS, *PRODUCTS, SUMS, *BESIDE, *CACHE)
        shown = [f"{f}={_shown(getattr(self, f))}" for f in fields if getattr(self, f) is not None]
        words = [word for word in WORDS if getattr(self, word)]
        return name + " ".join([*shown, *words])

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
    for field in (*_TEXT_SELECTORS, "cache"):
        _check_texts(field, getattr(rule, field))
    if rule.where is not None and not callable(rule.where):
        raise RuleError(f"Give where= a function of a site; got {rule.where!r}.")
    for word in WORDS:
        if not isinstance(getattr(rule, word), bool):
            raise RuleError(f"Give {word}=True or leave it out; got {getattr(rule, word)!r}.")
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
    texts = (*_TEXT_SELECTORS, "cache", "per")
    lists = {f: tuple(v) for f in texts if isinstance(v := getattr(rule, f), list)}
    given = {f: v for f in (*OPERANDS, "store") if (v := getattr(rule, f)) is not None}
    products = {f: v for f in PRODUCTS if (v := getattr(rule, f)) is not None}
    return (
        lists
        | {field: as_quantizer(value) for field, value in given.items()}
        | {f: v if isinstance(v, Backward) else Backward(v) for f, v in products.items()}
        | {"accumulate": as_accumulator(rule.accumulate)}
    )
