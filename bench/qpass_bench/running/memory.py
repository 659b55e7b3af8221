"""What a process holds, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

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
