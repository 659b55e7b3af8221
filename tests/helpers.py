"""Helpers of several test folders."""

from collections.abc import Callable
from textwrap import dedent
from typing import Any

import jax
import pytest

import qpass
from qpass.graph.text import to_text
from qpass_kernels.native import build


def _has_compiler() -> bool:
    try:
        build.compiler()
    except build.BuildError:
        return False
    return True


with_compiled_kernels = pytest.mark.skipif(
    not _has_compiler(), reason="no C++ compiler here, so no compiled kernels"
)
"""Of tests that need the compiled kernels. Where a compiler is, they must be there."""


def text(fn: Callable, args: tuple) -> str:
    """The text form of ``fn`` at ``args``."""
    return to_text(jax.make_jaxpr(fn)(*args))


def assert_rewrites(
    fn: Callable, rules: Any, args: tuple, before: str, after: str, stored: bool = True
) -> None:
    """``fn`` reads ``before``; its transformation by ``rules``, on stored weights, ``after``."""
    q = qpass.transform(fn, rules)
    assert text(fn, args) == dedent(before).strip("\n")
    given = q.quantize(*args) if stored else args[0]
    assert text(q, (given, *args[1:])) == dedent(after).strip("\n")


def is_qtensor(value: Any) -> bool:
    return isinstance(value, qpass.QTensor)


def qtensor_paths(tree: Any) -> set[str]:
    """Paths of the quantized leaves, without the name that an NNX variable has for its array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_qtensor)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        for path, leaf in leaves
        if is_qtensor(leaf)
    }
