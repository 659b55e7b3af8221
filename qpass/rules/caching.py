"""What a rule may say of caches: which quantizers can write them entry by entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qpass.errors import RuleError
from qpass.numerics import NEAREST, PerChannel, PerGroup, Quantizer, WeightedMse
from qpass.numerics.scale_formats import FLOAT32
from qpass.rules.globs import path_test

if TYPE_CHECKING:
    from qpass.rules.rule import Rule

TOKEN = "token"


def fits_cache(rule: Rule, path: str, full_path: str) -> bool:
    """Whether a rule is for the cache at this path, with or without its argument's name."""
    texts = (rule.cache,) if isinstance(rule.cache, str) else rule.cache or ()
    tests = [path_test(text) for text in texts]
    return any(test(path) or test(full_path) for test in tests)


def check_cache(rule: Rule, others: list[str]) -> None:
    """Hold what a rule says of caches together.

    Args:
        rule: one with ``cache``, ``store`` or ``per``.
        others: selectors and decisions that it has as well.

    Raises:
        RuleError: something is missing, does not belong there, or cannot be written by entries.
    """
    if rule.cache is None or rule.store is None:
        raise RuleError("Give cache= and store= together, as cache='**/cached_key', store='int8'.")
    if others:
        raise RuleError(f"Drop {others[0]}=: a rule with cache= is about caches, not products.")
    fits_cache(rule, "", "")
    assert isinstance(rule.store, Quantizer)
    if why := _why_not(rule.store):
        raise RuleError(
            f"Store caches as int8, int4 or fp8, per token or in groups ('int4 g32'), with the "
            f"range of each entry: {why}; got store={rule.store}."
        )
    _check_per(rule.per)


def _check_per(per: Any) -> None:
    if per in (None, TOKEN):
        return
    axes = per if isinstance(per, tuple | list) else ()
    is_int = all(isinstance(axis, int) and not isinstance(axis, bool) for axis in axes)
    if not axes or not is_int or len(set(axes)) != len(axes):
        raise RuleError(
            f"Give per='token' (a scale for each token, of each head) or the axes of the cache "
            f"that have a scale for each index, as per=(0, 1); got {per!r}."
        )


def _why_not(store: Quantizer) -> str | None:
    """Why what is written at a time cannot be quantized so by itself; None where it can."""
    qtype = store.qtype
    if qtype.packed or qtype.kind not in ("int", "float") or qtype.bits < 4 or qtype.qmin == 0:
        return f"an entry of {qtype.name} has no bytes of its own"
    if qtype.scale_format != FLOAT32 or store.scale_rounding:
        return f"scales of {qtype.name} are not float32"
    if store.is_static or store.is_learned or store.delayed_range:
        return "its range is not that of the entry"
    if store.rounding != NEAREST:
        return "it rounds at random"
    if isinstance(store.range, WeightedMse):
        return "its range needs statistics"
    if not isinstance(store.granularity, PerChannel | PerGroup) or _names_axes(store):
        return "which elements share a scale is said by per= and groups"
    return None


def _names_axes(store: Quantizer) -> bool:
    return isinstance(store.granularity, PerChannel) and store.granularity.axes is not None
