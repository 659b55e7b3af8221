"""What is near a selector that fits no site: names, paths, equations, operations."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from string import ascii_letters

from qpass.errors import RuleError
from qpass.graph.equation import parse_equation
from qpass.rules.globs import REGEX_PREFIX, path_test
from qpass.rules.selectors import Selector, SiteLike
from qpass.suggest import alternatives, listing, nearest

# Below these ratios difflib finds anything in anything: all equations share their punctuation.
_PATH_CUTOFF = 0.5
_EQUATION_CUTOFF = 0.75
# What somebody may mean who wrote the name of a module or a leaf without its surroundings.
_WIDER = ("**/{}", "{}/**", "**/{}/**")


def hint(selector: Selector, sites: Sequence[SiteLike]) -> str:
    """Say what the sites have where this selector fits none of them."""
    text = _HINTS.get(selector.field, _what_there_is)(selector, sites)
    return " ".join(filter(None, (text, _closed_over(selector, sites))))


def _closed_over(selector: Selector, sites: Sequence[SiteLike]) -> str:
    """The likely mistake where weights are no arguments: a function that closes over its model."""
    constants = sum(site.role == "constant" for site in sites)
    if not constants or selector.field not in ("path", "role"):
        return ""
    return (
        f"The weights of {constants} of them are constants that the function closes over: "
        "pass the model or its parameters as an argument."
    )


def tally(words: Iterable[str]) -> str:
    """Return each word with how often it occurs, the most frequent first."""
    return ", ".join(f"{word} ({count})" for word, count in Counter(words).most_common())


def _path_hint(selector: Selector, sites: Sequence[SiteLike]) -> str:
    paths = list(dict.fromkeys(site.weight_path for site in sites if site.weight_path))
    if not paths:
        return (
            f"{selector} needs a weight, and no product of this program has one: does params= "
            f"name the argument that holds the parameters?"
        )
    return _near_names(selector, paths, "weight paths")


def _scope_hint(selector: Selector, sites: Sequence[SiteLike]) -> str:
    scopes = list(dict.fromkeys(site.scope for site in sites if site.scope))
    if not scopes:
        return f"{selector} needs a scope, and no product of this program has one: choose by path=."
    return _near_names(selector, scopes, "scopes")


def _einsum_hint(selector: Selector, sites: Sequence[SiteLike]) -> str:
    known = {_written(site): _normal(str(site.equation)) for site in sites if site.equation}
    if not known:
        return f"{selector} needs an equation, and no product of this program has one."
    near = dict.fromkeys(near for text in selector.texts for near in _near_equations(text, known))
    there = f"near: {listing(near, 3)}" if near else f"there are: {listing(known)}"
    return f"{selector} is not among the {len(known)} equations of this program; {there}."


def _near_equations(text: str, known: dict[str, str]) -> list[str]:
    """Return what is near as it is written, then what is near up to the names of letters."""
    written = nearest(text, known, cutoff=_EQUATION_CUTOFF)
    normal = nearest(_normal(text), known.values(), cutoff=_EQUATION_CUTOFF)
    return written + [equation for form in normal for equation in known if known[equation] == form]


def _what_there_is(selector: Selector, sites: Sequence[SiteLike]) -> str:
    values = tally(getattr(site, selector.field) for site in sites)
    return f"{selector} fits none of the products; there are: {values}."


_HINTS: dict[str, Callable[[Selector, Sequence[SiteLike]], str]] = {
    "path": _path_hint,
    "scope": _scope_hint,
    "einsum": _einsum_hint,
}


def _near_names(selector: Selector, paths: list[str], kind: str) -> str:
    hints = [near for text in selector.texts if (near := _near(text, selector.field, paths))]
    found = " ".join(hints) or f"There are: {listing(paths, 5)}."
    return f"{selector} fits none of the {len(paths)} {kind}. {found}"


def _near(text: str, field: str, paths: list[str]) -> str:
    """Return the best hint for one glob: a wider one, a name spelt otherwise, a whole path."""
    if text.startswith(REGEX_PREFIX):
        return _whole(text.removeprefix(REGEX_PREFIX), paths)
    for form in _WIDER:
        if count := sum(map(path_test(form.format(text)), paths)):
            return f"A glob fits whole paths: {field}={form.format(text)!r} would fit {count}."
    return _misspelt(text, paths) or _whole(text, paths)


def _misspelt(text: str, paths: list[str]) -> str:
    names = dict.fromkeys(name for path in paths for name in path.split("/"))
    plain = [part for part in text.split("/") if not set(part) & set("*?") and part not in names]
    near = {part: found for part in plain if (found := nearest(part, names))}
    return " ".join(
        f"None has the name {part!r}; did you mean {alternatives(found)}?"
        for part, found in near.items()
    )


def _whole(text: str, paths: list[str]) -> str:
    bare = text.replace("**/", "").replace("*", "")
    close = nearest(bare, paths, cutoff=_PATH_CUTOFF)
    return f"Did you mean {alternatives(close)}?" if close else ""


def _written(site: SiteLike) -> str:
    """Return the equation as the user wrote it where that is known."""
    return site.einsum_label or str(site.equation)


def _normal(text: str) -> str:
    """Return an equation with its letters renamed in order of appearance, so that texts compare."""
    try:
        equation = str(parse_equation(text))
    except RuleError:
        equation = text
    letters = dict.fromkeys(c for c in equation if c.isalpha())
    return equation.translate(str.maketrans(dict(zip(letters, ascii_letters, strict=False))))
