"""What every test stands on: four CPU devices, kept programs, repeatable examples, a browser."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports jax: the devices of a process are fixed by its first use of a backend.
_FOUR_DEVICES = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FOUR_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Most of the suite's time is compiling, so what one worker compiled the others and the next run
# read. An entry's key is the program with the compiler's version and flags and the processor's
# features; what is read is the machine code that compiling would give again.
_COMPILED = Path(__file__).parents[1] / ".cache" / "compiled"
_COMPILED_BYTES = 2**30
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Compiling makes single examples slow and the first one slowest, so time limits say nothing here.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", parent=settings.get_profile("ci"), derandomize=False, max_examples=1000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """Empty the cache of compiled programs when it has grown beyond its limit."""
    if hasattr(config, "workerinput") or not _COMPILED.is_dir():
        return
    files = list(_COMPILED.iterdir())
    if sum(file.stat().st_size for file in files) > _COMPILED_BYTES:
        for file in files:
            file.unlink(missing_ok=True)


_CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root, as in a container, with it
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--no-first-run",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
)


@dataclass(frozen=True)
class Opened:
    """What a browser made of a page: its document afterwards, and each line of its console."""

    dom: str
    console: tuple[str, ...]


@pytest.fixture
def open_page(tmp_path: Path) -> Callable[..., Opened]:
    """Open HTML text in headless Chromium: `open_page(html, screenshot=path, width=, height=)`.

    What the page should do by itself, as a click, can be appended to it as a script.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.fail(
            "install Chromium, as `make test-browser` does, or leave the marker browser out"
        )

    def opened(
        html: str, screenshot: Path | None = None, width: int = 1280, height: int = 1600
    ) -> Opened:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        action = f"--screenshot={screenshot}" if screenshot else "--dump-dom"
        flags = (*_CHROMIUM_FLAGS, f"--window-size={width},{height}")
        run = subprocess.run(
            (browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", action, file.as_uri()),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        console = tuple(line for line in run.stderr.splitlines() if ":CONSOLE:" in line)
        return Opened(run.stdout, console)

    return opened
