"""Products of operands with zero points, by kernels that know none.

``sum (a - za) (w - zw) = sum a w  -  za sum w  -  zw sum (a - za)``, the sums over K or, where
scales differ along K, over each group of it. The first sum is the kernel's. Where every row of
``a`` has one scale, the second needs the column sums of the weight, which are stored with it
(`QTensor.sums`). Where they are not known (weights quantized on every call, or cut since), it is
the kernel's as well: a row of ones beside the rows of ``a`` gives the sums, without another pass
over the weight. The third needs sums of the activation alone.

Each product is rounded before it is added to anything, and each sum is kept from its surroundings,
so that all is computed in the same way whatever program it stands in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics import Operand
from qpass_kernels.reference import sealed


@dataclass(frozen=True)
class Sizes:
    """Contracted sizes of both operands, and what they are padded to with zero codes."""

    real: tuple[Any, ...]
    padded: tuple[Any, ...]


@dataclass(frozen=True)
class KernelCall:
    """What a kernel is asked for, and what makes the product of its result.

    Attributes:
        operands: lhs, rhs, rhs_scale and, for codes on the left, lhs_scale.
        group: elements of K that share a scale.
        out: dtype name of the kernel's result.
        finish: the kernel's result ``[B, M, N]`` (with one more row for some) -> the product.
    """

    operands: tuple[jax.Array, ...]
    group: Any
    out: str
    finish: Callable[[jax.Array], jax.Array]


def kernel_call(a: Operand, w: Operand, sizes: Sizes, out: str) -> KernelCall:
    """The call for ``a [B, M, K]`` times ``w [B, N, K]`` with the zero points that they have.

    Args:
        a: codes, or floats with neither scale nor zero point.
        w: codes.
        sizes: of the contracted axes.
        out: dtype name of the product.
    """
    group = _group(a, w)
    if a.zero is None and w.zero is None:
        return KernelCall(_arrays(a, w), group, out, unchanged)
    lhs, finish = _way(a, w)
    finish = partial(finish, a=a, w=w, sizes=sizes, out=out)
    return KernelCall(_arrays(lhs, w), group, "float32", finish)


def unchanged(total: jax.Array) -> jax.Array:
    """What is left to do where no operand has zero points."""
    return total


def _group(a: Operand, w: Operand) -> Any:
    """Elements of K that share scales; both operands are cut alike, where they are cut."""
    return min(a.group, w.group) if isinstance(a.group, int) else w.group


def _way(a: Operand, w: Operand) -> tuple[Operand, Callable[..., jax.Array]]:
    """What the kernel gets for ``a``, and what makes the product of its result."""
    if a.zero is None or a.scale.shape[2] != 1:
        return a, _by_groups
    return (_with_ones(a), _by_ones) if w.sums is None else (_unscaled(a), _by_columns)


def _arrays(a: Operand, w: Operand) -> tuple[jax.Array, ...]:
    codes = (a.codes, w.codes, w.scale)
    return codes if a.scale is None else (*codes, a.scale)


def _with_ones(a: Operand) -> Operand:
    """A row of ones below the codes, which have no scales."""
    tail = [(0, 0, 0), (0, 1, 0), (0, 0, 0)]
    return _unscaled(a._replace(codes=lax.pad(a.codes, jnp.ones((), a.codes.dtype), tail)))


def _unscaled(a: Operand) -> Operand:
    """All rows with scale 1: theirs multiplies the product last."""
    return a._replace(scale=jnp.ones((*a.codes.shape[:2], 1), jnp.float32))


def _by_ones(total: jax.Array, **product: Any) -> jax.Array:
    """The last row of ``total`` holds the column sums of the weight."""
    return _by_rows(total[:, :-1], total[:, -1:], **product)


def _by_columns(total: jax.Array, w: Operand, **product: Any) -> jax.Array:
    """The column sums are stored with the weight."""
    assert w.sums is not None
    return _by_rows(total, jnp.swapaxes(w.sums, 1, 2), w=w, **product)


def _by_rows(
    total: jax.Array, columns: jax.Array, a: Operand, w: Operand, sizes: Sizes, out: str
) -> jax.Array:
    """Zero points by row of ``a``; ``columns [B, 1, N]`` are the column sums of the weight."""
    assert a.zero is not None
    total = sealed(total - sealed(a.zero * columns))
    total = without_zeros(total, _unscaled(a), w, sizes)
    return sealed((total * a.scale).astype(out))


def _by_groups(total: jax.Array, a: Operand, w: Operand, sizes: Sizes, out: str) -> jax.Array:
    """Zero points by group of ``a``, or none."""
    if a.zero is not None:
        sums = w.scale * _sums(w.codes, a.zero.shape[2], a.group)
        total = sealed(total - outer(a.zero * a.scale, sums))
    return sealed(without_zeros(total, a, w, sizes).astype(out))


def outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """``[B, M, G]`` by ``[B, N, G]``, which may have one column for all groups: ``[B, M, N]``."""
    x, y = sealed(same_groups(x, y))
    dims = (((2,), (2,)), ((0,), (0,)))
    return sealed(lax.dot_general(x, y, dims, precision=lax.Precision.HIGHEST))


def same_groups(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both with a column for each group, where one may have one for all."""
    groups = max(x.shape[2], y.shape[2])
    x, y = (jnp.broadcast_to(v, (*v.shape[:2], groups)) for v in (x, y))
    return x, y


def without_zeros(
    total: jax.Array,
    a: Operand,
    w: Operand,
    sizes: Sizes,
    multiply: Callable[[jax.Array, jax.Array], jax.Array] = outer,
) -> jax.Array:
    """The product minus what the zero points of the weight have added to it.

    Args:
        total: the product of its codes.
        a: the left operand.
        w: the right one.
        sizes: of the contracted axes; asked for where a has zero points, too.
        multiply: sums of rows of a, and zero points of w, to what these add.
    """
    if w.zero is None:
        return total
    groups = w.zero.shape[2] if a.scale is None else max(w.zero.shape[2], a.scale.shape[2])
    group = _group(a, w)
    sums = _sums(a.codes, groups, group)
    if a.zero is not None:
        sums = sums - a.zero * _lengths(sizes, groups, group)
    if a.scale is not None:
        sums = sums * a.scale
    return sealed(total - multiply(sums, w.zero * w.scale))


def _sums(x: jax.Array, groups: int, group: Any) -> jax.Array:
    """Sums of ``[B, R, K]`` over each group: float32 ``[B, R, G]``, exact for integers."""
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    wide = sealed(x).astype(jnp.int32 if integer else jnp.float32)
    if groups == 1:
        parts = jnp.expand_dims(wide, 2)
    else:
        whole = jnp.pad(wide, ((0, 0), (0, 0), (0, groups * group - x.shape[2])))
        parts = jnp.reshape(whole, (*x.shape[:2], groups, group))
    return sealed(jnp.sum(parts, axis=3).astype(jnp.float32))


def _lengths(sizes: Sizes, groups: int, group: Any) -> Any:
    """How many elements of each group are not padding: ``[G]``."""
    if groups == 1:
        return jnp.asarray(math.prod(sizes.real), jnp.float32)
    tail = [(0, p - n) for n, p in zip(sizes.real, sizes.padded, strict=True)]
    real = np.pad(np.ones(sizes.real, np.float32), tail).ravel()
    starts = range(0, real.size, group)
    return np.add.reduceat(real, starts)
