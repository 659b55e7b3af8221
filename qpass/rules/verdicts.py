"""What each rule says of one site: that it fits, or which selector fails on which value."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from qpass.rules.matching import fits_all, rule_text
from qpass.rules.rule import Rule
from qpass.rules.selectors import Selector, SiteLike
from qpass.suggest import alternatives


@dataclass(frozen=True)
class Verdict:
    """One rule, asked about one site; it fits where no selector failed.

    Attributes:
        rule: its number.
        text: the rule as the user wrote it.
        failed: for each selector that does not fit, a text that gives both sides.
    """

    rule: int
    text: str
    failed: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether all selectors fit."""
        return not self.failed


def verdicts(rules: Sequence[Rule], site: SiteLike) -> tuple[Verdict, ...]:
    """Ask every rule about a site, also those after the first that fits.

    Raises:
        RuleError: a `where=` function failed.
    """
    return tuple(
        Verdict(index, rule.describe(), tuple(_failed(rule, site, rule_text(rules, index))))
        for index, rule in enumerate(rules)
        if not rule.cache
    )


def _failed(rule: Rule, site: SiteLike, text: str) -> Iterable[str]:
    """Every selector that fails; `where`, which may rely on the others, only where these fit."""
    selectors = [s for s in rule.selectors() if s.field != "where"]
    failed = [_said(rule, s, site) for s in selectors if not s.fits(site)]
    if failed or rule.where is None:
        return failed
    where = rule.selectors()[-1]
    return [] if fits_all([where], site, text) else [f"{where} is false here"]


def _said(rule: Rule, selector: Selector, site: SiteLike) -> str:
    asked = f"{selector.field}={alternatives(selector.texts)}"
    if selector.field == "role" and rule.role is None:
        return f"without role= it is for 'forward' products; this is {site.role!r}"
    return f"{asked} does not fit {_VALUES[selector.field](site)}"


def _equation(site: SiteLike) -> str:
    written = f", written {site.einsum_label!r}" if site.einsum_label else ""
    return f"{str(site.equation)!r}{written}" if site.equation else f"a {site.op}, which has none"


_VALUES: Mapping[str, Callable[[SiteLike], str]] = MappingProxyType(
    {
        "path": lambda site: (
            repr(site.weight_path) if site.weight_path else "a product without a weight"
        ),
        "scope": lambda site: repr(site.scope) if site.scope else "the outermost scope",
        "einsum": _equation,
        "op": lambda site: repr(site.op),
        "role": lambda site: repr(site.role),
    }
)
