"""Find, load and register the compiled CPU library: once in a process, when it is asked for.

A program calls a compiled kernel by the name that it is registered under; whatever lowers one asks
`why_not` first.
"""

import ctypes
import os
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax

HERE = Path(__file__).parent
TARGETS = (
    "QpassInteger",
    "QpassFloating",
    "QpassQuantizeRows",
    "QpassRaggedInteger",
    "QpassRaggedFloating",
)
CAP = "QPASS_CPU_ISA"
"""Environment variable: the highest instruction set that the kernels may use, for measurements."""
ISAS = ("portable", "avx2", "avx512", "vnni", "neon", "neondot")


@cache
def why_not(folder: Path = HERE) -> str | None:
    """Load the library of `folder` and register its kernels; return why that is not possible."""
    if os.environ.get(CAP, ISAS[0]) not in ISAS:
        return f"{CAP} is {os.environ[CAP]!r}, none of {', '.join(ISAS)}"
    library = find(folder)
    return library if isinstance(library, str) else _register(library)


def find(folder: Path) -> Path | str:
    """Find the library of these sources that the installed jaxlib can call, or say why not.

    XLA calls what was compiled with older headers than its own, and nothing newer.
    """
    # Not above: a module that its package has imported cannot be run with `python -m`.
    from qpass_kernels.native import build

    libraries = list(folder.glob("libqpass_cpu-*.so"))
    if not libraries:
        return f"not compiled (needs a C++ compiler): {build.COMMAND}"
    current = {_version(file): file for file in libraries if build.source_hash() in file.name}
    if not current:
        return f"compiled from other sources than these: {build.COMMAND}"
    installed = build.ffi_version(build.include_dir())
    usable = {v: file for v, file in current.items() if v <= installed}
    if not usable:
        return f"compiled for a newer jaxlib than {version('jaxlib')}: {build.COMMAND}"
    return usable[max(usable)]


def _version(library: Path) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", library.name.split("-")[1])
    return int(major), int(minor)


def _register(library: Path) -> str | None:
    """Register every kernel of the library; return what the loader or XLA has against it."""
    try:
        # With no backend yet, XLA would check the versions later: and then give up the backend.
        jax.devices("cpu")
        handlers = ctypes.CDLL(str(library))
        for name in TARGETS:
            capsule = jax.ffi.pycapsule(getattr(handlers, name))
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:
        return f"{library.name} does not load: {error}"
    return None
