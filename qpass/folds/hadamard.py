"""Orthogonal matrices that spread each channel evenly over all: of Hadamard's and Paley's.

A Hadamard matrix has entries 1 and -1 and orthogonal rows. They are made of smaller ones by
Kronecker products, from order 2 (Sylvester, 1867) and of primes (Paley, "On orthogonal matrices",
1933): of order ``q + 1`` where ``q % 4 == 3``, of order ``2 (q + 1)`` where ``q % 4 == 1``.
"""

from __future__ import annotations

from functools import cache

import numpy as np


def hadamard(n: int) -> np.ndarray | None:
    """A Hadamard matrix, ``int8[n, n]``, with only ones in its first row; None where none is known.

    Known are products of 2 and of Paley's orders of primes: of the multiples of 4 below 100 all but
    52 and 92.
    """
    if n == 1 or not is_known(n):
        return np.ones((1, 1), np.int8) if n == 1 else None
    order = next(order for order in _orders(n) if is_known(n // order))
    rest = hadamard(n // order)
    assert rest is not None  # of a known order
    found = np.kron(_base(order), rest)
    return found * found[0]


@cache
def is_known(n: int) -> bool:
    """Whether `hadamard` has a matrix of this order; makes none."""
    if n > 2 and n % 4:
        return False
    return n == 1 or any(is_known(n // order) for order in _orders(n))


def _orders(n: int) -> list[int]:
    """Orders of the matrices that others are made of, of those that divide n: 2, then Paley's."""
    divisors = [d for d in range(n, 3, -1) if n % d == 0 and d % 4 == 0]
    return [2] * (n % 2 == 0) + [d for d in divisors if _prime_of(d)]


def spread(n: int, seed: int, keeps_ones: bool = False) -> np.ndarray:
    """An orthogonal matrix, ``f64[n, n]``: one Hadamard matrix, or as many as fill the diagonal.

    Their order is the greatest divisor of n that one is known of (`block_order`).

    Args:
        n: channels.
        seed: of the signs, and of the order of channels.
        keeps_ones: whether ``1 @ q`` has to be 1, so that means stay what they are. Then a block is
            ``H' P H`` where P moves all but the first coordinate, with signs.
    """
    order, rng = block_order(n), np.random.default_rng(seed)
    block = hadamard(order)
    assert block is not None  # of a known order
    h = block / np.sqrt(order)
    q = np.zeros((n, n))
    for start in range(0, n, order):
        part = slice(start, start + order)
        signs = rng.choice([-1.0, 1.0], order)
        q[part, part] = _conjugated(h, signs, rng) if keeps_ones else signs[:, None] * h
    return q


def _conjugated(h: np.ndarray, signs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    places = np.concatenate([[0], 1 + rng.permutation(len(h) - 1)])
    signs[0] = 1.0
    return h.T @ (signs[:, None] * h[places])


def block_order(n: int) -> int:
    """The greatest divisor of n that a Hadamard matrix is known of."""
    return max(d for d in range(1, n + 1) if n % d == 0 and is_known(d))


def _prime_of(order: int) -> int:
    """The prime that a matrix of this order is made of; 0 for none."""
    if _is_prime(order - 1):  # of a multiple of 4 it is 3 modulo 4
        return order - 1
    half = order // 2 - 1
    return half if half % 4 == 1 and _is_prime(half) else 0


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _base(order: int) -> np.ndarray:
    """The Hadamard matrix of order 2, or of a prime."""
    plus = np.array([[1, 1], [1, -1]], np.int8)
    if order == 2:
        return plus
    q = _prime_of(order)
    squares = {k * k % q for k in range(1, q)}
    character = np.array([0] + [1 if k in squares else -1 for k in range(1, q)], np.int8)
    s = np.zeros((q + 1, q + 1), np.int8)
    s[0, 1:], s[1:, 0] = 1, 1 if q % 4 == 1 else -1
    s[1:, 1:] = character[(np.arange(q)[:, None] - np.arange(q)) % q]
    one = np.eye(q + 1, dtype=np.int8)
    if q % 4 == 3:
        return s + one
    return np.kron(s, plus) + np.kron(one, np.array([[1, -1], [-1, -1]], np.int8))
