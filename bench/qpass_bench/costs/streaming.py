"""How much memory `qpass quantize` takes at most, for a checkpoint larger than that.

``python -m qpass_bench.costs.streaming --out bench/results/streaming-cpu.json`` writes checkpoints
of 2 GB in several files, quantizes each by the command in a process of its own, and asks the system
how much that process held at most. Mapped files count as held while they are mapped, so this is
more than what has to be free.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

FILES, PER_FILE = 4, 8
WIDTH = 4096
BOUND_MB = 600
CASES = (
    ("float32", "int8"),
    ("float32", "int4 g32"),
    ("bfloat16", "int8"),
    ("bfloat16", "int4 g32"),
    ("bfloat16", "int4 g32 asym"),
    ("bfloat16", "mxfp4"),
    ("bfloat16", "nvfp4"),
)
"""The dtype of a checkpoint, and what its matrices become."""

COMMAND = """
from qpass.cli import main
from qpass_bench.running.memory import held
try:
    main()
finally:
    print(held("VmHWM"))
"""
"""The command, and what the process held since it began; `getrusage` would count its parent."""


def write(folder: Path, dtype: str, gigabytes: float) -> int:
    """Files of random matrices ``[4096, n]`` under an index; their bytes."""
    from safetensors.numpy import save_file

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    count = FILES * PER_FILE
    rows = int(gigabytes * 1e9 / count / WIDTH / kind.itemsize)
    rng, weight_map = np.random.default_rng(0), {}
    for number in range(FILES):
        names = [f"layers.{number * PER_FILE + k}.weight" for k in range(PER_FILE)]
        block = rng.standard_normal((rows, WIDTH), np.float32).astype(kind)
        file = f"model-{number:05}.safetensors"
        save_file({name: np.roll(block, k, 0) for k, name in enumerate(names)}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    return count * rows * WIDTH * kind.itemsize


def measure(dtype: str, weight: str, gigabytes: float) -> dict[str, Any]:
    """Bytes of the checkpoint and of its result, seconds, and the most that the command held."""
    with tempfile.TemporaryDirectory() as made:
        source, out = Path(made) / "float", Path(made) / "quantized"
        source.mkdir()
        size = write(source, dtype, gigabytes)
        words = ["quantize", str(source), str(out), "--weight", weight, "--contract", "1"]
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - start
        written = sum(file.stat().st_size for file in out.iterdir())
    most = int(done.stdout.splitlines()[-1])
    return {
        "dtype": dtype,
        "weight": weight,
        "source_mb": size / 1e6,
        "written_mb": written / 1e6,
        "leaf_mb": size / 1e6 / FILES / PER_FILE,
        "peak_mb": most / 1e6,
        "bound_mb": BOUND_MB,
        "seconds": seconds,
    }


def main() -> None:
    """Measure all cases, or those named; print the figures as JSON, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a case, as 'bfloat16 to int4 g32'")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    cases = [tuple(case.split(" to ", 1)) for case in asked.only] if asked.only else CASES
    rows = [measure(dtype, weight, asked.gigabytes) for dtype, weight in cases]
    text = json.dumps(rows, indent=2) + "\n"
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
