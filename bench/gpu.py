"""Check and time the kernels on an NVIDIA GPU: `python bench/gpu.py`, with jax for CUDA installed.

Runs in a checkout, qpass installed or not, and writes `bench/results/gpu-<device>.json`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "bench")]

if __name__ == "__main__":
    from qpass_bench.gpu.run import main

    sys.exit(main())
