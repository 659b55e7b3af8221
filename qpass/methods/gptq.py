"""GPTQ: round one channel after the other, and let the later ones make up for the error.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (2022), with the order of channels and the static groups of its authors'
code. For an error e of a weight's row the products lose ``e' H e``, with the Hessian H of
`qpass.numerics.channels`. Once channel j is rounded, that is least where the others move by
``-e_j * U[j] / U[j, j]``, with ``U' U`` the inverse of H, U upper triangular.

Scales are chosen before, of the weight as it is, so channels can be taken in any order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import RuleError
from qpass.numerics import Quantizer, decode, encode
from qpass.numerics.range_text import as_range
from qpass.numerics.ranges import AbsMax, Range
from qpass.rules.globs import path_test

BLOCK = 128
"""Channels after which all later ones are brought up to date."""


@dataclass(frozen=True)
class GPTQ:
    """How weights are rounded: ``q.quantize(params, method=GPTQ(), batches=...)``.

    Attributes:
        path: globs over paths of weights, as in a rule; others are rounded by themselves.
        range: how scales are chosen where a rule names no range: squared errors weighted by the
            mean square of what each channel is multiplied by. None for the rule's own ``absmax``.
        damp: what is added to the diagonal of the Hessian, as a part of its mean.
        act_order: take channels with the largest activations first; else in their own order.

    Raises:
        RuleError: a path, range or number that is none.
    """

    path: str | tuple[str, ...] = "**"
    range: Range | str | None = "wmse"
    damp: float = 0.01
    act_order: bool = True

    def __post_init__(self) -> None:
        if self.range is not None:
            object.__setattr__(self, "range", as_range(self.range))
        if not 0 < self.damp < 1:
            raise RuleError(f"Give damp= a number between 0 and 1; got {self.damp!r}.")
        self._tests()

    def takes(self, path: str) -> bool:
        """Whether the weight with this path is meant."""
        return any(test(path) for test in self._tests())

    def _tests(self) -> list[Callable[[str], bool]]:
        paths = (self.path,) if isinstance(self.path, str) else self.path
        return [path_test(text) for text in paths]

    def ranged(self, quantizer: Quantizer) -> Quantizer:
        """The quantizer, with the range of this method where it has none of its own."""
        if self.range is None or quantizer.range != AbsMax():
            return quantizer
        return quantizer.ranged(self.range)


@partial(jax.jit, static_argnames="act_order")
def factored(hessian: jax.Array, damp: float, act_order: bool) -> tuple[jax.Array, jax.Array]:
    """The order of channels, ``int32[K]``, and U of the Hessian in that order, ``f32[K, K]``.

    U holds NaN where the Hessian is not positive definite with this damping. A channel that was
    never other than zero moves nothing.
    """
    diagonal = jnp.diagonal(hessian)
    damped = diagonal + damp * jnp.mean(diagonal)
    hessian = hessian + jnp.diag(jnp.where(damped > 0, damped, 1) - diagonal)
    order = jnp.argsort(-diagonal) if act_order else jnp.arange(len(diagonal))
    hessian = hessian[order][:, order]
    # Of the reversed matrix L L', so that H = R R' with R upper triangular; U is its inverse.
    r = jnp.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    return order, jax.scipy.linalg.solve_triangular(r, jnp.eye(len(r)))


@partial(jax.jit, static_argnames="quantizer")
def rounded(
    w: jax.Array, u: jax.Array, scale: jax.Array, zero: jax.Array | None, quantizer: Quantizer
) -> jax.Array:
    """The values of codes, one channel rounded after the other.

    Args:
        w: ``f32[K, N]``, channels in the order in which they are rounded.
        u: of `factored`.
        scale: ``f32[K, N]``, that of each element.
        zero: likewise; None for none.
        quantizer: type and rounding.
    """
    k, n = w.shape
    more = -k % BLOCK
    w, u = jnp.pad(w, ((0, more), (0, 0))), jnp.pad(u, ((0, more), (0, more)))
    u = u + jnp.diag(jnp.where(jnp.arange(k + more) < k, 0.0, 1.0))
    scale = jnp.pad(scale, ((0, more), (0, 0)), constant_values=1)
    zero = None if zero is None else jnp.pad(zero, ((0, more), (0, 0)))

    def block(number: jax.Array, w: jax.Array) -> jax.Array:
        start = number * BLOCK
        rows = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=BLOCK)
        ahead = rows(u)
        own = lax.dynamic_slice_in_dim(ahead, start, BLOCK, axis=1)
        part, error = _block(rows(w), own, rows(scale), zero if zero is None else rows(zero))
        w = w - jnp.matmul(ahead.T, error, precision=lax.Precision.HIGHEST)
        return lax.dynamic_update_slice_in_dim(w, part, start, axis=0)

    def _block(part, own, scale, zero):
        def channel(j: jax.Array, state: tuple) -> tuple:
            part, done, errors = state
            value = snapped(part[j], scale[j], zero if zero is None else zero[j], quantizer)
            error = (part[j] - value) / own[j, j]
            part = part - own[j][:, None] * error[None]
            return part, done.at[j].set(value), errors.at[j].set(error)

        empty = jnp.zeros((BLOCK, n))
        _, done, errors = lax.fori_loop(0, BLOCK, channel, (part, empty, empty))
        return done, errors

    return lax.fori_loop(0, (k + more) // BLOCK, block, w)[:k]


def snapped(
    x: jax.Array, scale: jax.Array, zero: jax.Array | None, quantizer: Quantizer
) -> jax.Array:
    """The values that elements come back as, each with a scale of its own."""
    ones = (1,) * x.ndim
    codes = encode(x, scale, zero, ones, quantizer)
    return decode(codes, scale, zero, ones, quantizer.qtype, jnp.dtype(jnp.float32))


@jax.jit
def losses(error: jax.Array, hessian: jax.Array) -> jax.Array:
    """What each column of errors ``f32[K, N]`` costs, ``e' H e``: ``f32[N]``."""
    return jnp.sum(error * jnp.matmul(hessian, error, precision=lax.Precision.HIGHEST), axis=0)


def solve(
    w: jax.Array,
    hessian: jax.Array,
    scale: jax.Array,
    zero: jax.Array | None,
    quantizer: Quantizer,
    method: GPTQ,
) -> jax.Array | None:
    """GPTQ of one matrix; a column that came out worse than rounded by itself is rounded so.

    Args:
        w: ``f32[K, N]``.
        hessian: ``f32[K, K]``.
        scale: ``f32[K, N]``, that of each element.
        zero: likewise; None for none.
        quantizer: type and rounding.
        method: order and damping.

    Returns:
        values of codes, of the shape of w; None where no damping makes the Hessian invertible.
    """
    for damp in (method.damp, 10 * method.damp, 100 * method.damp):
        order, u = factored(hessian, damp, method.act_order)
        if jnp.all(jnp.isfinite(u)):
            break
    else:
        return None
    ordered = [x if x is None else x[order] for x in (scale, zero)]
    values = rounded(w[order], u, ordered[0], ordered[1], quantizer)
    values = jnp.zeros_like(values).at[order].set(values)
    plain = snapped(w, scale, zero, quantizer)
    better = losses(w - values, hessian) < losses(w - plain, hessian)
    return jnp.where(better, values, plain)
