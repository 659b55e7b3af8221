"""Writes tests/data/gguf.npz: blocks of every type that a QTensor keeps; needs gguf 0.19.

    python tests/data/make_gguf.py

The K types are made of random bytes (the package gguf only reads them) with scales that are finite.
"""

from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
OUTPUTS, INPUTS = 6, 512
SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Bytes of blocks at which float16 scales lie."""


def random_blocks(kind, rng):
    length, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (OUTPUTS * INPUTS // length, size), dtype=np.uint8)
    for start in SCALES[kind.name]:
        scale = rng.normal(0, 0.01, len(blocks)).astype(np.float16)
        scale[0] = 0
        blocks[:, start : start + 2] = scale[:, None].view(np.uint8)
    return blocks.reshape(OUTPUTS, -1)


def main():
    rng, arrays = np.random.default_rng(7), {}
    weight = rng.normal(0, 0.05, (OUTPUTS, INPUTS)).astype(np.float32)
    weight[0, :64], weight[1, :32] = 0, 0.25
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", *SCALES):
        kind = gguf.GGMLQuantizationType[name]
        data = random_blocks(kind, rng) if name in SCALES else gguf.quantize(weight, kind)
        arrays[f"{name}.data"] = data
        arrays[f"{name}.value"] = gguf.dequantize(data, kind).reshape(OUTPUTS, INPUTS)
    np.savez_compressed(HERE / "gguf.npz", **arrays)


if __name__ == "__main__":
    main()
