"""Rules that decide nothing: an error that says why, or a note."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from qpass.errors import RuleError
from qpass.rules.elsewhere import Readers, elsewhere
from qpass.rules.hints import hint, tally
from qpass.rules.matching import Matching, as_rules, fits_all, rule_text
from qpass.rules.rule import Rule
from qpass.rules.selectors import Selector, SiteLike

EMPTY: Readers = MappingProxyType({})


@dataclass(frozen=True)
class Findings:
    """Texts about rules: `warnings` of those that fit nothing, `notes` of those never reached."""

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_matching(
    matching: Matching,
    rules: Rule | Iterable[Rule],
    sites: Sequence[SiteLike],
    strict: bool = True,
    readers: Readers = EMPTY,
) -> Findings:
    """Find the rules that decide nothing. Pure: the caller warns.

    Args:
        matching: of these rules and sites.
        rules: the rules.
        sites: every product of a program.
        strict: whether a rule that fits nothing is an error.
        readers: of each parameter that is no product's weight, what reads it.

    Raises:
        RuleError: with `strict`, if a rule fits no site; one text for all such rules, with the
            nearest candidates of each.
    """
    given = as_rules(rules)
    warnings = tuple(
        explain(given, index, sites, readers)
        for index, ids in enumerate(matching.matched)
        if not ids and not given[index].cache
    )
    if strict and warnings:
        raise RuleError("\n".join(warnings))
    return Findings(warnings, _shadowed(matching, given, sites))


def explain(
    rules: Sequence[Rule], index: int, sites: Sequence[SiteLike], readers: Readers = EMPTY
) -> str:
    """Say why rule `index` fits none of the sites: which selector fails, and what is near it."""
    text = rule_text(rules, index)
    return (
        f"Change or drop {text}: it fits no product. {_reason(rules[index], sites, text, readers)}"
    )


def _reason(rule: Rule, sites: Sequence[SiteLike], text: str, readers: Readers) -> str:
    if not sites:
        told = (elsewhere(selector, readers) for selector in rule.selectors())
        return " ".join(filter(None, ("This program has no product at all.", *told)))
    # `where` may rely on the other selectors, so it is never asked alone.
    selectors = [s for s in rule.selectors() if s.field != "where"]
    fitting = [(s, _fitting([s], sites, text)) for s in selectors]
    if failed := [selector for selector, fits in fitting if not fits]:
        return " ".join(elsewhere(s, readers) or _implied(rule, s) + hint(s, sites) for s in failed)
    if together := _fitting(selectors, sites, text):
        where = rule.selectors()[-1]
        return f"{where} is false for all {len(together)} that its other selectors fit."
    return _conjunction(rule, fitting, sites)


def _implied(rule: Rule, selector: Selector) -> str:
    unasked = selector.field == "role" and rule.role is None
    return "Without role= a rule is for 'forward' products. " if unasked else ""


def _fitting(selectors: Iterable[Selector], sites: Sequence[SiteLike], text: str) -> set[int]:
    asked = list(selectors)
    return {i for i, site in enumerate(sites) if fits_all(asked, site, text)}


def _conjunction(
    rule: Rule, fitting: list[tuple[Selector, set[int]]], sites: Sequence[SiteLike]
) -> str:
    counts = ", ".join(f"{selector} fits {len(fits)}" for selector, fits in fitting)
    for (one, ones), (two, twos) in combinations(fitting, 2):
        if not ones & twos:
            roles = tally(sites[i].role for i in ones)
            implied = two.field == "role" and rule.role is None
            more = f" Without role= a rule is for {two.texts[0]!r}; these are: {roles}."
            return f"No product fits both {one} and {two}: {counts}.{more if implied else ''}"
    return f"Each selector fits some, but no product fits all of them: {counts}."


def _shadowed(
    matching: Matching, rules: Sequence[Rule], sites: Sequence[SiteLike]
) -> tuple[str, ...]:
    """Return a note for each rule whose sites are all decided by earlier rules."""
    chosen = dict(zip((site.id for site in sites), matching.chosen, strict=True))
    notes = []
    for index, (ids, taken) in enumerate(zip(matching.matched, matching.taken, strict=True)):
        if ids and taken == len(ids):
            earlier = sorted({rule for i in ids if (rule := chosen[i]) is not None})
            by = " and ".join(rule_text(rules, rule) for rule in earlier)
            notes.append(
                f"{rule_text(rules, index)} decides nothing: {_all(taken)} that it fits "
                f"{'is' if taken == 1 else 'are'} taken by {by}. "
                "The first rule that fits wins: move it up, or drop it."
            )
    return tuple(notes)


def _all(count: int) -> str:
    return "the only product" if count == 1 else f"all {count} products"
