"""A layer of a stacked weight, named by its index and not cut out of the stack.

A scan that got slices of a stored weight would copy each of them at every step before a kernel
could read it. Handed the stack and the index instead, a kernel reads the layer where it lies. The
layer is cut out only for what is no quantized product, or where codes have to be decoded or moved
before a kernel can read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qpass.numerics import Packed, QTensor, decoding, table_of
from qpass.numerics.layout import stored
from qpass.ops.matmul import layer_at
from qpass.ops.sharded import explicit_sharding


@partial(jax.tree_util.register_dataclass, data_fields=["index", "stack"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Layer:
    """The tensor ``stack[index]``.

    Attributes:
        index: int32 scalar.
        stack: a stored tensor whose first logical axis comes first in its codes and has a scale
            for each index.
    """

    index: jax.Array
    stack: QTensor

    def cut_out(self) -> QTensor:
        """The layer as a tensor of its own."""
        return jax.tree.map(partial(layer_at, self.index), self.stack)

    def transpose(self, perm: Sequence[int]) -> Layer:
        """Permute axes of the layer; no code moves."""
        return Layer(self.index, self.stack.transpose((0, *(axis + 1 for axis in perm))))

    def astype(self, dtype: Any) -> Layer | None:
        """Stand for another float dtype; None where it is not floating."""
        stack = self.stack.astype(dtype)
        return None if stack is None else Layer(self.index, stack)

    def squeeze(self, dims: Sequence[int]) -> Layer:
        """Drop axes of size 1."""
        return Layer(self.index, self.stack.squeeze([axis + 1 for axis in dims]))

    def slice(
        self, start: Sequence[int], limit: Sequence[int], strides: Sequence[int] | None = None
    ) -> Layer | QTensor | None:
        """A static slice; where it is one index of the first axis, a layer of all those."""
        _, _, *rest = self.stack.shape
        ones, inner = (1,) * len(start), _layers_of_layer(self)
        one_of_first = (start[0], *[0] * len(rest)), (start[0] + 1, *rest), ones
        if inner is None or (tuple(start), tuple(limit), tuple(strides or ones)) != one_of_first:
            return self.cut_out().slice(start, limit, strides)
        one = inner(jnp.int32(start[0]))
        return Layer(one.index, jax.tree.map(partial(jnp.expand_dims, axis=1), one.stack))


def tensor(value: Any) -> Any:
    """A layer cut out; any other value as it is."""
    return value.cut_out() if isinstance(value, Layer) else value


def layers(value: Any) -> Callable[[jax.Array], Layer] | None:
    """What gives the layers of a stacked weight by index; None where a scan has to slice it.

    Only stored weights can stay as they are (gradients of a float weight lie by layer), and only
    where a kernel can read them so.
    """
    if isinstance(value, Layer):
        return _layers_of_layer(value)
    if not isinstance(value, QTensor) or value.latent is not None or not _is_plain(value):
        return None
    n, codes = value.shape[0], jax.typeof(stored(value.codes))
    is_sharded = explicit_sharding(codes) is not None
    if is_sharded or not isinstance(n, int) or n == 0:
        return None
    stack = value.stacked(1)
    return lambda index: Layer(index, stack)


def _is_plain(q: QTensor) -> bool:
    """Whether there are kernels that take codes and scales of q as they are."""
    codes = table_of(q.qtype) is not None or not decoding(q.qtype, isinstance(q.codes, Packed))
    return codes and q.outer is None and q.scale.dtype == jnp.float32


def _layers_of_layer(outer: Layer) -> Callable[[jax.Array], Layer] | None:
    """A stack inside of a stack, both as one; None where the inner layers lie apart."""
    arrays = jax.tree.leaves(outer.stack)
    sizes = outer.stack.shape[:2]
    lie_together = outer.stack.physical_order[:2] == (0, 1) and sizes[1] != 0
    if not lie_together or any(a.shape[:2] != sizes for a in arrays):
        return None
    flat = jax.tree.map(lambda a: jnp.reshape(a, (-1, *a.shape[2:])), outer.stack)
    return lambda index: Layer(outer.index * sizes[1] + index, flat)
