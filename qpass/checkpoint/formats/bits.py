"""Codes of a few bits inside words, as other libraries pack them; numpy in and out.

All of them write a little-endian stream: code i takes the bits `i * bits` to `(i + 1) * bits`, the
lowest bit of the first word being bit 0. They differ in the axis that the stream runs along, in the
order of codes inside of it, and in whether a word that has no room for a whole code is left early.
"""

from __future__ import annotations

import math

import numpy as np

WORD = 32


def unpack(words: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The first n codes of each stream.

    Args:
        words: `[..., w]` of an integer dtype; each row is a stream.
        bits: of a code, 1 to 8.
        n: codes in a row; the caller has seen to it that a row has as many.

    Returns:
        uint8 `[..., n]`, codes without sign.
    """
    stream = np.ascontiguousarray(words).view(np.uint8)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (stream[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return codes.reshape(*stream.shape[:-1], -1)[..., :n]
    flags = np.unpackbits(stream, axis=-1, count=n * bits, bitorder="little")
    each = flags.reshape(*stream.shape[:-1], n, bits)
    return np.packbits(each, axis=-1, bitorder="little")[..., 0]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `unpack`: int32 `[..., ceil(n * bits / 32)]`, with zeros behind the last code.

    Args:
        codes: uint8 `[..., n]`, each below `2**bits`.
        bits: of a code, 1 to 8.
    """
    each = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    flags = each.reshape(*codes.shape[:-1], -1)
    stream = np.packbits(flags, axis=-1, bitorder="little")
    missing = words_for(codes.shape[-1], bits) * (WORD // 8) - stream.shape[-1]
    tail = [(0, 0)] * (codes.ndim - 1) + [(0, missing)]
    return np.ascontiguousarray(np.pad(stream, tail)).view("<i4")


def words_for(n: int, bits: int) -> int:
    """Words that n codes take without gaps."""
    return math.ceil(n * bits / WORD)


def unpack_whole(words: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The same of words that hold whole codes only, the bits above them being unused."""
    held = WORD // bits
    codes = unpack(words[..., None], bits, held)
    return codes.reshape(*words.shape[:-1], -1)[..., :n]


def whole_words_for(n: int, bits: int) -> int:
    """Words that n codes take where each holds whole codes only."""
    return math.ceil(n / (WORD // bits))
