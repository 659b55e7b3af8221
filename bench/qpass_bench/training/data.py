"""What is trained on: letters of a book, and handwritten digits; fetched, never committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qpass_bench.models import fetch, texts

CLASSES = 10
SIDE = 28
"""Rows and columns of an image."""


@dataclass(frozen=True)
class Split:
    """Examples to learn from and examples to judge by, which are never learned from.

    Each is a tuple of arrays that have the examples along their first axis.
    """

    train: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]

    def batches(self, size: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Examples drawn without end, the same for the same seed."""
        draw = np.random.default_rng(seed)
        while True:
            chosen = draw.integers(0, len(self.train[0]), size)
            yield tuple(array[chosen] for array in self.train)


def letters(length: int, held_out: int, cache: Path | None = None) -> Split:
    """The King James Bible as bytes: ``u8[N, length + 1]``, the last ``held_out`` windows apart.

    Windows begin half a length apart to learn from, and a length apart to judge by. The end of the
    book, which is judged by, is other prose than its beginning, but the same for everybody.
    """
    book = " ".join(texts.verses(fetch.fetch(fetch.KJV, cache)).values())
    codes = np.frombuffer(book.encode("ascii", "replace"), np.uint8)
    end = len(codes) - held_out * length - 1
    return Split(
        (_windows(codes[:end], length, length // 2),), (_windows(codes[end:], length, length),)
    )


def _windows(codes: np.ndarray, length: int, step: int) -> np.ndarray:
    every = np.lib.stride_tricks.sliding_window_view(codes, length + 1)
    return every[::step]


def digits(held_out: int, cache: Path | None = None) -> Split:
    """10,000 images of MNIST ``f32[N, 28, 28]`` in 0..1 and their classes ``i32[N]``, shuffled."""
    folder = fetch.fetch_digits(cache)
    each = [_images(folder / f"{number}.json") for number in range(CLASSES)]
    images = np.concatenate(each)
    classes = np.repeat(np.arange(CLASSES, dtype=np.int32), [len(own) for own in each])
    order = np.random.default_rng(0).permutation(len(images))
    learn, judge = order[held_out:], order[:held_out]
    return Split((images[learn], classes[learn]), (images[judge], classes[judge]))


def _images(file: Path) -> np.ndarray:
    numbers = np.asarray(json.loads(file.read_text(encoding="utf-8"))["data"], np.float32)
    return numbers.reshape(-1, SIDE, SIDE)
