"""What NVIDIA's assembler says of the Mosaic GPU kernels of a program, read while it is compiled.

The compiler gives its reports in files only, in a folder that an environment variable names. It is
set for the time of one compilation; nothing else of the process is touched.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED_LIMIT = 232_448
"""Bytes of shared memory that a block may have on Hopper."""

DUMPS = ("PTX", "PTXAS", "RESOURCES")


@dataclass(frozen=True)
class Report:
    """One kernel as it was assembled.

    Attributes:
        name: of the kernel.
        registers: of each thread.
        spilled: bytes stored to and loaded from memory for want of registers.
        serialized: whether the assembler made asynchronous tensor core products wait.
        shared: bytes of shared memory.
        products: types of the tensor core's products, as `s32.s8.s8` (result, left, right).
    """

    name: str
    registers: int
    spilled: int
    serialized: bool
    shared: int
    products: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """Why the kernel should not be used; None where nothing speaks against it."""
        if self.spilled:
            return f"{self.name} spills {self.spilled} bytes of registers"
        if self.serialized:
            return f"{self.name}: the assembler serialized its tensor core products"
        if self.shared > SHARED_LIMIT:
            return f"{self.name} needs {self.shared} bytes of shared memory of {SHARED_LIMIT}"
        return None


def compile_and_report(compile: Callable[[], Any]) -> tuple[Any, tuple[Report, ...]]:
    """Call `compile`; return what it does, and a report for each Mosaic GPU kernel in it.

    `compile` traces and lowers as well: shared memory is known from then on. A kernel that this
    process has compiled before is not compiled again and has no report.
    """
    with tempfile.TemporaryDirectory() as folder, _dumping_to(folder):
        return compile(), tuple(reports(Path(folder)))


def reports(folder: Path) -> Iterator[Report]:
    """Read the dumps in a folder, one report for each kernel."""
    for file in sorted(folder.glob("*.ptxas")):
        yield read(
            file.stem,
            ptxas=file.read_text(encoding="utf-8"),
            ptx=_text(file.with_suffix(".ptx")),
            resources=_resources(file),
        )


def read(name: str, ptxas: str, ptx: str, resources: str) -> Report:
    """Read the texts of one kernel.

    Raises:
        ValueError: the assembler's report names no registers; its form is not the one known here.
    """
    registers = re.search(r"Used (\d+) registers", ptxas)
    if registers is None:
        raise ValueError(f"{name}: no registers in what the assembler says: {ptxas!r:.200}")
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", ptxas)
    shared = re.findall(r"smem_scratch_bytes=(\d+)", resources)
    return Report(
        name=name,
        registers=int(registers[1]),
        spilled=sum(map(int, spills)),
        serialized="serialized" in ptxas,
        shared=max(map(int, shared), default=0),
        products=tuple(sorted(set(re.findall(PRODUCT, ptx)))),
    )


PRODUCT = r"wgmma\.mma_async\.sync\.aligned\.m\d+n\d+k\d+\.(\w+\.\w+\.\w+)"


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _resources(file: Path) -> str:
    """What kernels of that name take; tracing counts them, compiling others, so numbers differ."""
    name = re.sub(r"_\d+$", "", file.stem)
    return "".join(_text(x) for x in sorted(file.parent.glob(f"{name}_*.resources.txt")))


@contextmanager
def _dumping_to(folder: str) -> Iterator[None]:
    wanted = {"MOSAIC_GPU_DUMP_TO": folder} | {f"MOSAIC_GPU_DUMP_{kind}": "1" for kind in DUMPS}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
