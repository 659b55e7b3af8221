"""Measuring a lesser machine on this one: programs that keep to an older instruction set.

The cap holds qpass's compiled kernels and the code that XLA generates. It does not hold the
libraries inside XLA that multiply large matrices, which ask the processor themselves.
"""

from __future__ import annotations

import os

from qpass_kernels.native.library import CAP

XLA = {"avx2": "AVX2", "avx512": "AVX512", "vnni": "AVX512_VNNI"}
"""Instruction sets that both know, by the name that the kernels have for one."""


def cap(isa: str) -> None:
    """Forbid all instructions above `isa` to this process and to those that it starts.

    Takes effect only before JAX has started a backend.

    Raises:
        KeyError: `isa` is none of `XLA`.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_max_isa={XLA[isa]}".strip()
    os.environ[CAP] = isa


def capped() -> str | None:
    """What the kernels are held to, or None."""
    return os.environ.get(CAP)
