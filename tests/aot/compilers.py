"""Which compilers for devices go with the jax that is installed: requirements for pip.

    python tests/aot/compilers.py cuda
    python tests/aot/compilers.py tpu

jax names them itself, in its extras; what else those ask for (the CUDA libraries, gigabytes of
them) is for running programs and not needed here.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import requires

EXTRAS = {"cuda": ("cuda13-local", "jax-cuda13-plugin"), "tpu": ("tpu", "libtpu")}


def requirements(device: str) -> Iterator[str]:
    """Name the packages with the versions that jax wants."""
    extra, package = EXTRAS[device]
    pattern = rf"({package})(\[[^]]*\])?([^;\[]*); extra == \"{extra}\""
    found = [re.fullmatch(pattern, text) for text in requires("jax") or ()]
    versions = [match[3].strip() for match in found if match]
    if len(versions) != 1:
        sys.exit(f"jax asks for {package} {len(versions)} times in its extra {extra}, not once")
    yield package + versions[0]
    if device == "cuda":
        yield "jax-cuda13-pjrt" + versions[0]


if __name__ == "__main__":
    print(*requirements(sys.argv[1]), sep="\n")
