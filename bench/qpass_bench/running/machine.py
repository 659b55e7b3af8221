"""What a figure was measured on, in enough words to tell whether two figures may be compared."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import qpass
from qpass_bench.running.isa import capped
from qpass_bench.running.measure import machine
from qpass_kernels import KERNELS, Kernel
from qpass_kernels.native import library

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
"""Instructions that decide how fast a product of integers or of bfloat16 can be."""

SAME = ("platform", "cpu", "cores", "flags", "isa")
"""What two machines must share for their figures to be comparable."""

VERSIONS = ("jax", "python", "numpy", "native")
"""What may differ between runs on one machine, and then explains what they differ in."""


def details() -> dict[str, Any]:
    """The processor, its flags and any cap on them, cores, memory, versions, compiled kernels."""
    info = Path("/proc/cpuinfo")
    fields = cpu_fields(info.read_text(encoding="utf-8") if info.exists() else "")
    return {
        **machine(),
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "flags": sorted(set(FLAGS) & set(fields.get("flags", fields.get("Features", "")).split())),
        "isa": capped(),
        "memory_gb": round(total_memory() / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "qpass": qpass.__version__,
        "native": native(),
    }


def cpu_fields(text: str) -> dict[str, str]:
    """The fields of the first processor in the text of ``/proc/cpuinfo``."""
    lines = text.split("\n\n", 1)[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def native() -> str:
    """Names of the kernels that are compiled for this machine, or why there are none."""
    names = ", ".join(kernel.name for kernel in KERNELS if kernel.local)
    why_not = library.why_not()
    return f"none ({why_not})" if why_not else names or "none"


def has_native(kernels: Sequence[Kernel] = KERNELS) -> bool:
    """Whether products here may run in kernels that are compiled for this machine."""
    return any(kernel.local for kernel in kernels) and library.why_not() is None


def threads() -> int:
    """Threads that everybody computes with: one for each core that this process may use."""
    return machine()["cores"]


def total_memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int:
    """Bytes that a program may still take without swapping; half of all where nobody says."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return total_memory() // 2
    fields = cpu_fields(info.read_text(encoding="utf-8"))
    return int(fields["MemAvailable"].split()[0]) * 1024


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What two machines differ in, each in a line; first what forbids comparing their figures."""
    for key in (*SAME, *VERSIONS):
        if old.get(key) != new.get(key):
            yield f"{key}: {old.get(key)} then, {new.get(key)} now"


def comparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two runs are of the same kind of machine."""
    return all(old.get(key) == new.get(key) for key in SAME)
