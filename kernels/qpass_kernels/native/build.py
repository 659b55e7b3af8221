"""Compile the CPU library: `python -m qpass_kernels.native.build`.

The library's name holds what it was made from: the version of XLA's foreign function interface
(FFI) in jaxlib's headers, and a hash of the sources and flags. A library of other sources is so
never taken for this one, and environments with different versions of jaxlib can share a checkout.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMAND = "python -m qpass_kernels.native.build"
COMPILERS = ("c++", "g++", "clang++")
# No -march: a function names the instructions that it uses, and one is chosen at run time.
# Products and sums are fused only where the source says so: the same bits from every compiler.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off")
# Names of XLA's headers stay inside: another library may have been built with other headers.
FLAGS += ("-fvisibility-inlines-hidden",)


class BuildError(Exception):
    """Why there is no library; the text says what to do."""


def build(folder: Path = HERE, headers: Path | None = None) -> Path:
    """Compile the library into `folder` unless it is there, and remove those of other sources.

    Args:
        folder: where the library goes.
        headers: jaxlib's include folder; None for that of the installed jaxlib.

    Raises:
        BuildError: no jaxlib, no compiler, or one that fails.
    """
    headers = headers or include_dir()
    library = folder / file_name(headers)
    if not library.exists():
        _compile(compiler(), headers, library)
    for other in folder.glob("libqpass_cpu-*.so"):
        if source_hash() not in other.name:
            other.unlink(missing_ok=True)
    return library


def compiler() -> str:
    """Find the C++ compiler: `$CXX`, else the first of the usual names.

    Raises:
        BuildError: there is none.
    """
    asked = os.environ.get("CXX")
    names = (asked,) if asked else COMPILERS
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise BuildError(
            f"no C++ compiler: looked for {', '.join(names)}. Install one (apt-get install g++, "
            f"xcode-select --install) or name it in $CXX, then: {COMMAND}"
        )
    return found


def include_dir() -> Path:
    """Find the folder of jaxlib's headers, without importing jaxlib.

    Raises:
        BuildError: jaxlib is not installed.
    """
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise BuildError("no jaxlib, whose headers the library is compiled with")
    return Path(spec.origin).parent / "include"


def ffi_version(headers: Path) -> tuple[int, int]:
    """Read the version of the interface that the headers describe."""
    text = (headers / "xla" / "ffi" / "api" / "c_api.h").read_text()
    major, minor = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", text)
    return int(major), int(minor)


def file_name(headers: Path) -> str:
    """Name the library of these sources, compiled with these headers."""
    major, minor = ffi_version(headers)
    return f"libqpass_cpu-ffi{major}.{minor}-{source_hash()}.so"


def source_hash() -> str:
    """Hash what a library is made of: sources, flags and the kind of processor."""
    digest = hashlib.sha256(" ".join((*FLAGS, sys.platform, platform.machine())).encode())
    for file in sorted((HERE / "src").iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _compile(cxx: str, headers: Path, library: Path) -> None:
    """Compile beside the final name and rename, so that nobody loads half a library."""
    unfinished = library.with_suffix(f".{os.getpid()}")
    sources = map(str, sorted((HERE / "src").glob("*.cc")))
    command = [cxx, *FLAGS, "-isystem", str(headers), *sources, "-o", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    if source_hash() not in library.name:
        unfinished.unlink()
        raise BuildError("the sources were changed while they were compiled; once more, please")
    unfinished.rename(library)


def main() -> int:
    """Build, and say where the library is or why there is none."""
    try:
        print(build())
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
