"""GGUF, llama.cpp's container, which the `gguf` package reads.

A tensor is rows of blocks. Where a value is `d * (q - c)` with one c for all, in Q4_0, Q5_0, Q8_0
and Q6_K, a QTensor holds codes and scales as they are. In Q4_1, Q5_1, Q4_K and Q5_K it is
`d * q + m` with a minimum m that is no multiple of d: codes and scales are kept, and zero points
are the float32 nearest to `-m / d`. The value is then `d * (q - zero)`, which differs from the
format's own by a few roundings of float32. Other types are dequantized by the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from qpass.checkpoint.formats.build import INTEGERS, Scales, quantized
from qpass.checkpoint.formats.leaves import Decoded, Imported, Leaf
from qpass.errors import CheckpointError

_SUPER = 256  # elements of a block of the K types
_FLOATS = ("F32", "F16", "F64", "BF16")


@dataclass(frozen=True)
class Blocks:
    """Parsed blocks, b of them.

    Attributes:
        codes: int8 `[b, n]`, with sign; those of types with a minimum moved down by half.
        scale: float32 `[b, scales of a block]`.
        minimum: float32, likewise: what code 0 of types with a minimum stands for; or None.
    """

    codes: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray | None = None


@dataclass(frozen=True)
class BlockType:
    """How a type is parsed.

    Attributes:
        bits: of a code.
        group: elements that share a scale.
        parse: from the bytes of blocks, uint8 `[b, size]`.
    """

    bits: int
    group: int
    parse: Callable[[np.ndarray], Blocks]


def read(path: Path) -> Imported:
    """The tensors of a GGUF file, by the names that they have there; `[out, in]`.

    Raises:
        CheckpointError: the package is not installed, or the file is damaged.
    """
    gguf = _package(path)
    try:
        tensors = gguf.GGUFReader(path).tensors
    except OSError:
        raise
    except Exception as error:  # The reader raises whatever parsing runs into.
        raise CheckpointError(
            f"Fetch {path} again: it is cut off or no GGUF file ({type(error).__name__}: {error})."
        ) from error
    return Imported("gguf", {t.name: _leaf(gguf, t, path) for t in tensors})


def _package(path: Path) -> ModuleType:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"Install qpass-jax[checkpoint] to read {path}: that takes the package gguf."
        ) from error
    return gguf


def _leaf(gguf: ModuleType, tensor: Any, path: Path) -> Leaf:
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return Leaf(shape, f"{tensor.name} in {path}", partial(_decode, gguf, tensor, shape, path))


def _decode(gguf: ModuleType, tensor: Any, shape: tuple[int, ...], path: Path) -> Decoded:
    name, where = tensor.tensor_type.name, f"{tensor.name} in {path}"
    if name in BLOCK_TYPES and len(shape) == 2:
        return _kept(tensor.data, BLOCK_TYPES[name], shape, where)
    try:
        value = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    except NotImplementedError as error:
        raise CheckpointError(f"Convert {where}: the package gguf cannot decode {name}.") from error
    if name in _FLOATS:
        return Decoded(jnp.asarray(value))
    return Decoded(jnp.asarray(value), f"no QTensor has the layout of {name}, {len(shape)} axes")


def _kept(data: np.ndarray, kind: BlockType, shape: tuple[int, ...], where: str) -> Decoded:
    outputs, inputs = shape
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(outputs, -1)
    blocks = kind.parse(rows.reshape(-1, rows.shape[1] * min(_length(kind), inputs) // inputs))
    codes = blocks.codes.reshape(shape)
    scale, zero = blocks.scale.reshape(outputs, -1), None
    if blocks.minimum is not None:
        codes, scale, zero = _around_zero(codes, scale, blocks.minimum.reshape(scale.shape), kind)
    scales = Scales(scale, 1, kind.group, zero)
    return Decoded(quantized(codes, INTEGERS[kind.bits], scales, np.dtype(np.float32), where))


def _length(kind: BlockType) -> int:
    """Elements of a block."""
    return _SUPER if kind.parse in _OF_SUPER else kind.group


def _around_zero(
    codes: np.ndarray, scale: np.ndarray, minimum: np.ndarray, kind: BlockType
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points with `(code - zero) * scale` for `scale * q + minimum`.

    Where the scale is 0 every value is the minimum, whatever its code: it becomes the scale of
    codes that are one above the zero point.
    """
    half = 1 << (kind.bits - 1)
    flat = scale == 0
    scale = np.where(flat, minimum, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.float64(minimum) / np.float64(scale)
    zero = np.where(flat, -1.0, -below) - half
    zero = np.where(scale == 0, -half, zero).astype(np.float32)
    spread = np.repeat(flat, kind.group, axis=1)
    return np.where(spread, -half, codes).astype(np.int8), scale, zero


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at that byte of each block, float32 `[b, 1]`."""
    raw = np.ascontiguousarray(blocks[:, start : start + 2])
    return raw.view(np.float16).astype(np.float32)


def _nibbles(packed: np.ndarray, run: int) -> np.ndarray:
    """Lower halves of so many bytes, then their upper halves, then on: uint8 `[b, n]`."""
    runs = packed.reshape(len(packed), -1, 1, run)
    both = np.concatenate([runs & 15, runs >> 4], axis=2)
    return both.reshape(len(packed), -1)


def _fifth_bits(blocks: np.ndarray, start: int) -> np.ndarray:
    raw = blocks[:, start : start + 4]
    return np.unpackbits(raw, axis=1, bitorder="little") << np.uint8(4)


def _signed(codes: np.ndarray, half: int) -> np.ndarray:
    return codes.astype(np.int8) - np.int8(half)


def _q4_0(blocks: np.ndarray) -> Blocks:
    return Blocks(_signed(_nibbles(blocks[:, 2:], 16), 8), _half(blocks, 0))


def _q4_1(blocks: np.ndarray) -> Blocks:
    codes = _signed(_nibbles(blocks[:, 4:], 16), 8)
    return Blocks(codes, _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: np.ndarray) -> Blocks:
    codes = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks, 2)
    return Blocks(_signed(codes, 16), _half(blocks, 0))


def _q5_1(blocks: np.ndarray) -> Blocks:
    codes = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks, 4)
    return Blocks(_signed(codes, 16), _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: np.ndarray) -> Blocks:
    return Blocks(blocks[:, 2:].view(np.int8), _half(blocks, 0))


def _six_bit_pairs(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minimums of six bits from 12 bytes.

    The first four of each are the low bits of bytes 0 to 3 and 4 to 7, whose two upper bits are
    those of the last four; their lower four are the halves of bytes 8 to 11.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minimum = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _q4_k(blocks: np.ndarray) -> Blocks:
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])
    codes = _signed(_nibbles(blocks[:, 16:144], 32), 8)
    return Blocks(codes, _half(blocks, 0) * scale, -(_half(blocks, 2) * minimum))


def _q5_k(blocks: np.ndarray) -> Blocks:
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, None, 16:48] >> shifts & 1).reshape(len(blocks), -1) << 4
    codes = _signed(_nibbles(blocks[:, 48:176], 32) | fifth, 16)
    return Blocks(codes, _half(blocks, 0) * scale, -(_half(blocks, 2) * minimum))


def _q6_k(blocks: np.ndarray) -> Blocks:
    low = _nibbles(blocks[:, :128], 64)
    pairs = blocks[:, 128:192].reshape(len(blocks), -1, 1, 32)
    high = pairs >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    codes = low | (high.reshape(len(blocks), -1) << 4)
    scale = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return Blocks(_signed(codes, 32), _half(blocks, 208) * scale)


_OF_SUPER = (_q4_k, _q5_k, _q6_k)

BLOCK_TYPES: Mapping[str, BlockType] = {
    "Q4_0": BlockType(4, 32, _q4_0),
    "Q4_1": BlockType(4, 32, _q4_1),
    "Q5_0": BlockType(5, 32, _q5_0),
    "Q5_1": BlockType(5, 32, _q5_1),
    "Q8_0": BlockType(8, 32, _q8_0),
    "Q4_K": BlockType(4, 32, _q4_k),
    "Q5_K": BlockType(5, 32, _q5_k),
    "Q6_K": BlockType(6, 16, _q6_k),
}
"""Types whose codes a QTensor keeps."""
