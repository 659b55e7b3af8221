"""Suggestions for error messages: which of the known names did somebody mean?"""

import difflib
from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str], n: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return up to `n` candidates that resemble `word`, best first, each once.

    Capital letters do not count. `cutoff` in [0, 1] is difflib's ratio below which a candidate is
    no suggestion; lower it for long texts such as paths.
    """
    by_folded: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(candidates):
        by_folded.setdefault(candidate.casefold(), []).append(candidate)
    close = difflib.get_close_matches(word.casefold(), list(by_folded), n=n, cutoff=cutoff)
    return [candidate for folded in close for candidate in by_folded[folded]][:n]


def did_you_mean(word: str, candidates: Iterable[str], n: int = 3, cutoff: float = 0.6) -> str:
    """Return a sentence that helps after an unknown `word`; empty when nothing is known.

    "did you mean 'int8' or 'int4'?" where something is near, otherwise "known: 'a', 'b', 'c'"
    with at most eight names.
    """
    known = list(dict.fromkeys(candidates))
    if close := nearest(word, known, n, cutoff):
        return f"did you mean {alternatives(close)}?"
    return f"known: {listing(known)}" if known else ""


def alternatives(words: Iterable[str]) -> str:
    """Return the words quoted and joined as "'a', 'b' or 'c'"."""
    quoted = [repr(word) for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def listing(words: Iterable[str], limit: int = 8) -> str:
    """Return at most `limit` words, quoted, with the number of those left out."""
    return shortened(map(repr, words), limit)


def shortened(texts: Iterable[str], limit: int, separator: str = ", ") -> str:
    """Return at most `limit` texts as they are, with the number of those left out."""
    known = list(texts)
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return separator.join(known[:limit]) + more
