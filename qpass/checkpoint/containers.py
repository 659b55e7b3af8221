"""Python's own containers as JSON, so that a tree comes back as it was without being asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

_KINDS = {"list": list, "tuple": tuple}


def structure(tree: Any, is_leaf: Any) -> Any:
    """The containers of a tree; None where some are not Python's own.

    Args:
        tree: dicts with names for keys, lists, tuples, None, and leaves.
        is_leaf: as for `jax.tree.flatten`.
    """
    leaves = iter(range(len(jax.tree.leaves(tree, is_leaf=is_leaf))))
    try:
        return _written(tree, is_leaf, leaves)
    except TypeError:
        return None


def _written(tree: Any, is_leaf: Any, leaves: Any) -> Any:
    if tree is None:
        return {"none": []}
    if is_leaf(tree):
        return next(leaves)
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _written(tree[key], is_leaf, leaves) for key in sorted(tree)}}
    if type(tree) in _KINDS.values():
        return {type(tree).__name__: [_written(part, is_leaf, leaves) for part in tree]}
    if jax.tree.structure(tree) == jax.tree.structure(0):
        return next(leaves)
    raise TypeError


def rebuilt(written: Any, leaves: Sequence[Any]) -> Any:
    """The tree of those leaves.

    Raises:
        ValueError: what is written are no containers, or of other leaves.
    """
    used: list[int] = []
    tree = _rebuilt(written, leaves, used)
    if used != list(range(len(leaves))):
        raise ValueError(f"a tree of {len(used)} leaves for {len(leaves)}")
    return tree


def _rebuilt(written: Any, leaves: Sequence[Any], used: list[int]) -> Any:
    if type(written) is int and 0 <= written < len(leaves):
        used.append(written)
        return leaves[written]
    if isinstance(written, dict) and len(written) == 1:
        ((kind, parts),) = written.items()
        if kind == "none":
            return None
        if kind == "dict" and isinstance(parts, dict):
            return {key: _rebuilt(part, leaves, used) for key, part in parts.items()}
        if kind in _KINDS and isinstance(parts, list):
            return _KINDS[kind](_rebuilt(part, leaves, used) for part in parts)
    raise ValueError(f"the container {str(written)[:50]!r}")
