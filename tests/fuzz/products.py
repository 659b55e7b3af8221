"""Contractions of any two arrays: axes of equal size are paired, others cut to be equal."""

from string import ascii_letters
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.fuzz import programs as ast
from tests.fuzz.shapes import reshaped

Pairs = list[tuple[int, int]]


def contract(s: ast.Dot, x: jax.Array, w: jax.Array, third: jax.Array | None = None) -> jax.Array:
    """The product that ``s`` describes; where dtypes differ both are float32."""
    x, w = x.astype(jnp.result_type(x, w)), w.astype(jnp.result_type(x, w))
    if s.style == "matmul":
        return _matmul(s, x, w)
    lhs, rhs = (w, x) if s.left else (x, w)
    batch, contracted = _pairs(s, lhs.shape, rhs.shape)
    lhs, rhs = _equal(lhs, rhs, [*batch, *contracted])
    wide = jnp.float32 if s.wide else None
    if s.style in ("einsum", "triple"):
        return _einsum(s, lhs, rhs, third, batch, contracted)
    numbers = (_sides(contracted), _sides(batch))
    return lax.dot_general(lhs, rhs, numbers, preferred_element_type=wide)


def _sides(pairs: Pairs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def _pairs(s: ast.Dot, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> tuple[Pairs, Pairs]:
    """Batch and contracted axes; the first contracted pair may have unequal sizes."""
    left, right, pick = list(range(len(lhs))), list(range(len(rhs))), s.pick
    found: Pairs = []
    for k in range(s.contract + s.batch):
        some = [(a, b) for a in left for b in right if lhs[a] == rhs[b]]
        if not some and k == 0:
            some = [(a, b) for a in left for b in right]
        if not some:
            break
        a, b = some[pick % len(some)]
        pick //= len(some)
        left.remove(a)
        right.remove(b)
        found.append((a, b))
    return found[s.contract :], found[: s.contract]


def _equal(lhs: jax.Array, rhs: jax.Array, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    for a, b in pairs:
        n = min(lhs.shape[a], rhs.shape[b])
        lhs, rhs = lax.slice_in_dim(lhs, 0, n, axis=a), lax.slice_in_dim(rhs, 0, n, axis=b)
    return lhs, rhs


def _matmul(s: ast.Dot, x: jax.Array, w: jax.Array) -> jax.Array:
    """``x @ w`` or ``w @ x``, with NumPy's rules for stacks of matrices."""
    lhs, rhs = (w, x) if s.left else (x, w)
    if rhs.ndim > 2:
        rhs = rhs.reshape(-1, rhs.shape[-1])
    if lhs.ndim > 3:
        lhs = lhs.reshape(-1, *lhs.shape[-2:])
    axis = 0 if rhs.ndim == 1 else rhs.ndim - 2
    lhs, rhs = _equal(lhs, rhs, [(lhs.ndim - 1, axis)])
    return lhs @ rhs


def _einsum(
    s: ast.Dot, lhs: Any, rhs: Any, third: Any, batch: Pairs, contracted: Pairs
) -> jax.Array:
    names = iter(ascii_letters)
    left = [next(names) for _ in lhs.shape]
    paired = {b: left[a] for a, b in (*batch, *contracted)}
    right = [paired[b] if b in paired else next(names) for b in range(rhs.ndim)]
    gone = {left[a] for a, _ in contracted}
    kept = [c for c in dict.fromkeys([*left, *right]) if c not in gone]
    if s.pick % 3 == 1:
        kept.reverse()
    terms, operands = ["".join(left), "".join(right)], [lhs, rhs]
    if third is not None and s.pick % 5 == 2 and len(kept) > 1:
        kept.pop()  # an axis of one operand alone, summed
    elif third is not None and kept:
        last, size = kept[-1], dict(zip([*left, *right], lhs.shape + rhs.shape, strict=True))
        terms.append(last + next(names))
        operands.append(reshaped(third, (size[last], 3)).astype(lhs.dtype))
        kept[-1] = terms[-1][1]
    return jnp.einsum(f"{','.join(terms)}->{''.join(kept)}", *operands)


def odd(op: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """A ragged product, or a contraction that has no quantized form."""
    w = w.astype(x.dtype)
    if op == "conv":
        return lax.conv(reshaped(x, (1, 2, 4)), reshaped(w, (3, 2, 2)), (1,), "SAME")
    if op == "ragged":
        sizes = jnp.asarray([1, 3], jnp.int32)
        return lax.ragged_dot(reshaped(x, (4, 2)), reshaped(w, (2, 2, 3)), sizes)
    steps = jnp.round(reshaped(x, (2, 4)) * 4).astype(jnp.int32)
    return (steps @ steps.T).astype(x.dtype) * 0.1
