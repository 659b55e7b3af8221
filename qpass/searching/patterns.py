"""Few globs for many paths, so that rules stay short enough to be read and edited."""

import re
from collections.abc import Collection, Iterator

from qpass.rules.globs import path_test

_DIGITS = re.compile(r"\d+")
_SPECIAL = re.compile(r"[*?]")


def patterns(paths: Collection[str], others: Collection[str]) -> tuple[str, ...]:
    """Texts for ``path=`` that fit all of ``paths`` and none of ``others``.

    Greedily the pattern that fits most of what is left, of those that stand for any number in
    names (`layers_*/mlp/up`), any end (`layers/mlp/**`) or any beginning (`**/up/kernel`).

    Args:
        paths: of leaves, names joined by "/".
        others: paths that must not be fitted.
    """
    fits = {text: _fitted(text, paths) for path in paths for text in _candidates(path)}
    allowed = {text: found for text, found in fits.items() if not _fitted(text, others)}
    left, taken = set(paths), []
    while left:
        # Of those that fit as many, the one that says most.
        best = max(sorted(allowed), key=lambda text: (len(allowed[text] & left), _said(text)))
        taken.append(best)
        left -= allowed[best]
    return tuple(taken)


def _fitted(text: str, paths: Collection[str]) -> set[str]:
    fits = path_test(text)
    return {path for path in paths if fits(path)}


def _candidates(path: str) -> Iterator[str]:
    yield _exactly(path)
    if _SPECIAL.search(path) or path.startswith("re:"):
        return
    yield "**"
    names = path.split("/")
    for shown in (names, [_DIGITS.sub("*", name) for name in names]):
        yield "/".join(shown)
        for cut in range(1, len(names)):
            yield "/".join((*shown[:cut], "**"))
            yield "/".join(("**", *shown[cut:]))


def _exactly(path: str) -> str:
    """The text that fits nothing else."""
    if _SPECIAL.search(path) or path.startswith("re:"):
        return f"re:{re.escape(path)}"
    return path


def _said(text: str) -> int:
    """Characters that stand for themselves."""
    return len(text) - 2 * text.count("*")
