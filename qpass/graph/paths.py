"""Paths of leaves as the users of a framework write them."""

from collections.abc import Sequence
from typing import Any

from jax.tree_util import DictKey, GetAttrKey, SequenceKey, keystr

BOXED = GetAttrKey("value")
ITSELF = GetAttrKey("")  # the one child of a box that shows no key of its own


def leaf_path(tree: Any, keys: Sequence[Any]) -> str:
    """``layers/mlp/up/kernel``: the keys below an argument, without those of boxes.

    Args:
        tree: the argument.
        keys: JAX's key path of the leaf in it.
    """
    if keys and keys[-1] == BOXED and _is_box(_follow(tree, keys[:-1])):
        keys = keys[:-1]
    return keystr(tuple(k for k in keys if k != ITSELF), simple=True, separator="/")


def _is_box(value: Any) -> bool:
    """Flax's boxes around one array: Linen's partitioned parameters, NNX's Variables."""
    return hasattr(value, "unbox") or hasattr(value, "get_raw_value")


def _follow(tree: Any, keys: Sequence[Any]) -> Any:
    """The node that a key path leads to; None where its keys do not say how to get there."""
    for key in keys:
        if isinstance(key, GetAttrKey):
            tree = getattr(tree, key.name, None)
        elif isinstance(key, SequenceKey):
            tree = tree[key.idx]
        elif isinstance(key, DictKey):
            tree = tree[key.key]
        else:
            return None
    return tree
