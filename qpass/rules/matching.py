"""Which rule decides which site: the first whose selectors all fit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qpass.errors import RuleError
from qpass.rules.rule import Rule
from qpass.rules.selectors import Selector, SiteLike


@dataclass(frozen=True)
class Matching:
    """What the rules say of the sites of one program.

    Attributes:
        chosen: for each site, in the order of the sites, the index of the rule that decides it, or
            None.
        matched: for each rule the ids of the sites that its selectors fit.
        taken: for each rule how many of these an earlier rule decides.
    """

    chosen: tuple[int | None, ...]
    matched: tuple[tuple[str, ...], ...]
    taken: tuple[int, ...]


def as_rules(rules: Rule | Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules as a tuple; one rule may be given alone.

    Raises:
        RuleError: something that is not a Rule, or two rules of the same name.
    """
    found = (rules,) if isinstance(rules, Rule) else tuple(rules)
    first: dict[str, int] = {}
    for index, rule in enumerate(found):
        if not isinstance(rule, Rule):
            raise RuleError(f"Give rules as qpass.Rule(...); number {index} is {rule!r}.")
        if rule.name is not None and first.setdefault(rule.name, index) != index:
            raise RuleError(
                f"Name each rule once: {rule.name!r} is rule {first[rule.name]} and rule {index}."
            )
    return found


def rule_text(rules: Sequence[Rule], index: int) -> str:
    """Return how messages call a rule: "rule 2 (path=**/mlp/** weight=int8)"."""
    return f"rule {index} ({rules[index].describe()})"


def match_rules(rules: Rule | Iterable[Rule], sites: Sequence[SiteLike]) -> Matching:
    """Ask every rule about every site; the first rule that fits a site decides it.

    Raises:
        RuleError: `rules` are malformed, or a `where=` function failed at a site.
    """
    given = as_rules(rules)
    fits = [
        [
            not rule.cache and fits_all(rule.selectors(), site, rule_text(given, index))
            for site in sites
        ]
        for index, rule in enumerate(given)
    ]
    chosen = tuple(_first(row[column] for row in fits) for column in range(len(sites)))
    return Matching(
        chosen=chosen,
        matched=tuple(
            tuple(site.id for site, fit in zip(sites, row, strict=True) if fit) for row in fits
        ),
        taken=tuple(
            sum(fit and choice != index for fit, choice in zip(row, chosen, strict=True))
            for index, row in enumerate(fits)
        ),
    )


def fits_all(selectors: Iterable[Selector], site: SiteLike, text: str) -> bool:
    """Say whether a site fits every selector, asked in order until one says no.

    Raises:
        RuleError: a `where=` function raised; the error names the rule (`text`) and the site.
    """
    for selector in selectors:
        try:
            fit = selector.fits(site)
        except Exception as error:
            raise RuleError(
                f"Let {selector} answer for every product, False where it does not apply; it "
                f"raised {type(error).__name__}: {error} at {site.id!r}, {text}."
            ) from error
        if not fit:
            return False
    return True


def _first(column: Iterable[bool]) -> int | None:
    return next((index for index, fit in enumerate(column) if fit), None)
