"""The language of `path=` and `scope=`: globs over names joined by "/", and regular expressions."""

import re
from collections.abc import Callable

from qpass.errors import RuleError

REGEX_PREFIX = "re:"
_WILDCARDS = {"*": "[^/]*", "?": "[^/]"}


def path_test(text: str) -> Callable[[str], bool]:
    """Return the test of paths that a selector text describes; it must fit the whole path.

    In a glob "*" stands for any characters within one name, "?" for one character of a name, and
    "**" for any number of names, also none; everything else, brackets too, stands for itself.
    Text after "re:" is a regular expression.

    Raises:
        RuleError: a regular expression that Python does not compile, an empty name between
            slashes, or "**" that is joined to other characters.
    """
    if text.startswith(REGEX_PREFIX):
        regex = _compiled(text)
        return lambda path: regex.fullmatch(path) is not None
    glob = re.compile("".join(map(_segment, _segments(text))))
    # A slash after each name, so that "**" may stand for none of them.
    return lambda path: glob.fullmatch(f"{path}/" if path else "") is not None


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text.removeprefix(REGEX_PREFIX))
    except re.error as error:
        raise RuleError(f"Write a regular expression after 're:'; {text!r}: {error}.") from None


def _segments(text: str) -> list[str]:
    segments = text.split("/")
    if "" in segments:
        raise RuleError(
            f"Write {text!r} without '/' at its ends and without '//': no path has an empty name."
        )
    for segment in segments:
        if "**" in segment and segment != "**":
            raise RuleError(
                f"Write '*' for any part of one name, or '**' alone between slashes for any number "
                f"of names; {text!r} has {segment!r}."
            )
    return segments


def _segment(segment: str) -> str:
    if segment == "**":
        return "(?:[^/]+/)*"
    return "".join(_WILDCARDS.get(c) or re.escape(c) for c in segment) + "/"
