"""Photographs from Debian packages, cut as classifiers of ImageNet see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from qpass_bench.models.efficientnet import PIXELS
from qpass_bench.models.fetch import fetch_debian

SHORT_SIDE = 256
SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
GREY = ("camera.png",)


def evaluation(cache: Path | None = None) -> list[Path]:
    """Photographs of objects and animals, and every other one of landscapes."""
    folder = fetch_debian("python3-skimage", cache) / "usr/lib/python3/dist-packages/skimage/data"
    return [*(folder / name for name in (*SKIMAGE, *GREY)), *_nature(cache)[::2]]


def calibration(cache: Path | None = None) -> list[Path]:
    """The other landscapes."""
    return _nature(cache)[1::2]


def _nature(cache: Path | None) -> list[Path]:
    home = fetch_debian("mate-backgrounds", cache)
    return sorted((home / "usr/share/backgrounds/mate/nature").glob("*.jpg"))


def crops(path: Path) -> np.ndarray:
    """The corners and the middle of a photograph, and their mirror images: ``f32[10, P, P, 3]``."""
    image = Image.open(path).convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    sizes = round(image.width * scale), round(image.height * scale)
    pixels = np.asarray(image.resize(sizes, Image.Resampling.BICUBIC), np.float32)
    cut = np.stack(list(_places((pixels - 127) / 128)))
    return np.concatenate([cut, cut[:, :, ::-1]])


def _places(image: np.ndarray) -> Iterator[np.ndarray]:
    down, right = (n - PIXELS for n in image.shape[:2])
    for y, x in ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)):
        yield image[y : y + PIXELS, x : x + PIXELS]
