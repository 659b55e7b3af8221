"""A path that fits a parameter which no product has for its weight: who reads it instead."""

from collections.abc import Iterable, Mapping, Sequence

from qpass.rules.globs import path_test
from qpass.rules.selectors import Selector
from qpass.suggest import shortened

# Path of a parameter that is no product's weight -> what reads it, each as "add at model.py:12".
Readers = Mapping[str, Sequence[str]]
SHOWN = 3


def elsewhere(selector: Selector, readers: Readers) -> str:
    """Say what reads the parameters that a `path=` fits; empty where it fits none of them."""
    if selector.field != "path":
        return ""
    tests = [path_test(text) for text in selector.texts]
    fitting = [path for path in readers if any(fits(path) for fits in tests)]
    if not fitting:
        return ""
    said = " ".join(f"{path!r} {_read(readers[path])}." for path in fitting[:SHOWN])
    more = f" So it is with {len(fitting) - SHOWN} more." if len(fitting) > SHOWN else ""
    kind = "a parameter that is" if len(fitting) == 1 else "parameters that are"
    return f"{selector} fits {kind} no product's weight. {said}{more}"


def _read(by: Iterable[str]) -> str:
    names = list(dict.fromkeys(by))
    if not names:
        return "is read by nothing"
    is_table = all(name.startswith("gather") for name in names)
    way = " (a rule with role='lookup' stores it)" if is_table else ""
    return f"is read by {shortened(names, SHOWN)}{way}"
