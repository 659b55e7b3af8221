"""What a process holds, as Linux tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def supported() -> bool:
    """Whether this system tells how much memory a process held at most."""
    return FORGET.exists()


def forget() -> None:
    """Start anew to look for the most that this process holds (`held("VmHWM")`)."""
    FORGET.write_text("5")


def held(field: str) -> int:
    """Bytes of a field of the status of this process: `VmRSS` now, `VmHWM` at most."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    found = next(line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


def alone(module: str, *words: str, **environment: str) -> Any:
    """What a module prints last, as JSON, when it is run as a program in a process of its own.

    Raises:
        CalledProcessError: it failed.
    """
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
