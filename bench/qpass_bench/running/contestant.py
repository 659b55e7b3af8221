"""A model under one variant, ready to run: the float one and its rewritten rivals look alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

import qpass
from qpass_bench.cases.schemes import Variant
from qpass_kernels import KERNELS, Kernel


@dataclass(frozen=True)
class Contestant:
    """A function and its parameters as they would be served; ``plan`` is None for the float one."""

    variant: Variant
    forward: Callable
    params: Any
    plan: Any = None

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name


def enter(
    variant: Variant,
    forward: Callable,
    params: Any,
    *example: Any,
    kernels: Sequence[Kernel] = KERNELS,
) -> Contestant:
    """Rewrite ``forward(params, *example)`` by the variant's rules; store the weights quantized."""
    if not variant.rules:
        return Contestant(variant, forward, params)
    rewritten = qpass.transform(forward, variant.rules, kernels=kernels)
    plan = rewritten.plan(params, *example)
    stored = jax.block_until_ready(rewritten.quantize(params, *example))
    return Contestant(variant, rewritten, stored, plan)


@dataclass(frozen=True)
class Sizes:
    """Bytes of the buffers on the device, and what the same leaves took in the float tree.

    ``kinds`` holds, for each quantized type, the bytes of its leaves (codes and scales) and of the
    float leaves that they replace.
    """

    total: int
    kinds: dict[str, tuple[int, int]]

    def report(self, float_total: int) -> dict[str, Any]:
        """Bytes and ratios, ready for JSON."""
        kinds = {
            name: {"bytes": now, "float_bytes": before, "ratio": now / before}
            for name, (now, before) in self.kinds.items()
        }
        return {"bytes": self.total, "ratio": self.total / float_total, "quantized": kinds}


def sizes(params: Any, float_params: Any) -> Sizes:
    """Count the device buffers of a tree whose leaves may be quantized, against its float tree.

    Raises:
        ValueError: the trees differ in structure.
    """
    leaves, tree = jax.tree.flatten(params, is_leaf=_is_quantized)
    float_leaves = tree.flatten_up_to(float_params)
    kinds: dict[str, tuple[int, int]] = {}
    for leaf, original in zip(leaves, float_leaves, strict=True):
        if _is_quantized(leaf):
            now, before = kinds.get(leaf.qtype.name, (0, 0))
            kinds[leaf.qtype.name] = (now + buffer_bytes(leaf), before + buffer_bytes(original))
    return Sizes(buffer_bytes(params), kinds)


def buffer_bytes(tree: Any) -> int:
    """Bytes that the arrays of a tree occupy on their devices (two int4 codes to a byte)."""
    return sum(leaf.on_device_size_in_bytes() for leaf in jax.tree.leaves(tree))


def _is_quantized(leaf: Any) -> bool:
    return isinstance(leaf, qpass.QTensor)
