"""Selectors: what each of `path=`, `scope=`, `einsum=`, `op=`, `where=`, `role=` asks of a site."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from qpass.errors import RuleError
from qpass.graph.equation import Equation, matches, parse_terms, same_text
from qpass.rules.globs import path_test
from qpass.suggest import did_you_mean

OPS = ("dot_general", "ragged_dot_general", "conv_general_dilated", "scaled_dot")
OP_ALIASES = {
    "einsum": "dot_general",
    "matmul": "dot_general",
    "ragged_dot": "ragged_dot_general",
    "conv": "conv_general_dilated",
}
ATTENTION = ("qk", "pv")
PRODUCTS = ("forward", *ATTENTION, "activations", "dlhs", "drhs", "weights", "constant", "tangent")
ROLES = (*PRODUCTS, "lookup")
# What stands for several roles.
WIDER = MappingProxyType({"activations": ("activations", *ATTENTION), "*": PRODUCTS})


class SiteLike(Protocol):
    """What rules read of a site, one contraction of a program; `where=` callables get it too."""

    @property
    def id(self) -> str:
        """Stable name, such as "layers/mlp/up/dot_general.0"."""
        ...

    @property
    def op(self) -> str:
        """Name of the primitive."""
        ...

    @property
    def equation(self) -> Equation | None:
        """Canonical equation, where the primitive has one."""
        ...

    @property
    def einsum_label(self) -> str | None:
        """The text that the user gave to `jnp.einsum`, where the product comes from one."""
        ...

    @property
    def scope(self) -> str:
        """Names of the enclosing modules and named scopes, joined by "/"; "" at the top."""
        ...

    @property
    def role(self) -> str:
        """One of `ROLES`."""
        ...

    @property
    def weight_path(self) -> str:
        """Path of the parameter leaf that is an operand, joined by "/"; "" where none is."""
        ...

    @property
    def lhs_shape(self) -> tuple[Any, ...]:
        """Shape of the left operand."""
        ...

    @property
    def rhs_shape(self) -> tuple[Any, ...]:
        """Shape of the right operand."""
        ...

    @property
    def lhs_dtype(self) -> Any:
        """Dtype of the left operand."""
        ...

    @property
    def rhs_dtype(self) -> Any:
        """Dtype of the right operand."""
        ...

    @property
    def source(self) -> str:
        """Line of the user's code, such as "model.py:12"."""
        ...


type Where = Callable[[Any], object]


@dataclass(frozen=True)
class Selector:
    """One question to a site: the field of the rule, the texts it gives, and the test."""

    field: str
    texts: tuple[str, ...]
    fits: Callable[[SiteLike], bool]

    def __str__(self) -> str:
        return f"{self.field}={'|'.join(self.texts)}"


def path_selector(texts: tuple[str, ...]) -> Selector:
    """Ask for the path of the weight; a site without a weight never fits."""
    tests = [path_test(text) for text in texts]
    return Selector(
        "path",
        texts,
        lambda site: bool(site.weight_path) and any(fits(site.weight_path) for fits in tests),
    )


def scope_selector(texts: tuple[str, ...]) -> Selector:
    """Ask for the module scope."""
    tests = [path_test(text) for text in texts]
    return Selector("scope", texts, lambda site: any(fits(site.scope) for fits in tests))


def einsum_selector(texts: tuple[str, ...]) -> Selector:
    """Ask for the equation, or for the text of the einsum that the product comes from."""
    for text in texts:
        if len(parse_terms(text)[0]) < 2:
            raise RuleError(
                f"Write an einsum of two operands or more, as in 'BTD,NDH->BTNH'; got {text!r}."
            )
    return Selector("einsum", texts, lambda site: any(_is_einsum(text, site) for text in texts))


def op_selector(texts: tuple[str, ...]) -> Selector:
    """Ask for the primitive, by its name or an alias."""
    ops = {primitive_name(text) for text in texts}
    return Selector("op", texts, lambda site: site.op in ops)


def role_selector(texts: tuple[str, ...]) -> Selector:
    """Ask for the role; "*" is that of any product."""
    roles = role_names(texts)
    return Selector("role", texts, lambda site: site.role in roles)


def where_selector(where: Where) -> Selector:
    """Ask a function of the user."""
    name = getattr(where, "__qualname__", None) or type(where).__name__
    return Selector("where", (name,), lambda site: bool(where(site)))


def primitive_name(op: str) -> str:
    """Return the name of the primitive that `op=` means.

    Raises:
        RuleError: no contraction is called so; the error gives the nearest ones.
    """
    name = OP_ALIASES.get(op, op)
    if name not in OPS:
        hint = did_you_mean(op, (*OPS, *OP_ALIASES))
        raise RuleError(f"Name an operation that contracts; {op!r} is none: {hint}")
    return name


def role_names(texts: tuple[str, ...]) -> frozenset[str]:
    """Return the roles that `role=` means.

    Raises:
        RuleError: no role is called so; the error gives the nearest ones.
    """
    for text in texts:
        if text not in (*ROLES, *WIDER):
            hint = did_you_mean(text, (*ROLES, *WIDER))
            raise RuleError(f"Name a role of a product; {text!r} is none: {hint}")
    return frozenset(role for text in texts for role in WIDER.get(text, (text,)))


def _is_einsum(text: str, site: SiteLike) -> bool:
    if site.einsum_label is not None and _same(text, site.einsum_label):
        return True
    two = len(parse_terms(text)[0]) == 2
    return two and site.equation is not None and matches(text, site.equation)


def _same(text: str, label: str) -> bool:
    """Compare with a label found in the program, which may be no equation at all."""
    try:
        return same_text(text, label)
    except RuleError:
        return False
