"""What was compiled, kept as JSON: `--aot-results FILE`."""

import json
import os
import sys
from importlib.metadata import distributions
from pathlib import Path

import jax
import pytest

PACKAGES = ("jax-cuda13-plugin", "libtpu")
CASES: pytest.StashKey[list] = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--aot-results", type=Path, help="write what was compiled to this file")


def pytest_configure(config):
    config.stash[CASES] = []
    if _file(config) is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Results(config))


@pytest.fixture
def record(record_property):
    """Keep what is known of a case: (device, kernel, product, its setting, and more by name)."""

    def keep(device, kernel, product, setting, **found):
        case = {"device": device, "kernel": kernel, "product": product, "setting": setting}
        record_property("aot", case | found)

    return keep


@pytest.fixture(scope="session")
def seen():
    """Kernels that were compiled before: each is compiled once, and not reported again."""
    return set()


class _Results:
    """Gathers the cases of all workers, and writes them when the run is over."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            kept = [value for key, value in report.user_properties if key == "aot"]
            passed = {"passed": report.passed, "seconds": round(report.duration, 1)}
            self.config.stash[CASES].extend(case | passed for case in kept)

    def pytest_sessionfinish(self):
        cases = sorted(json.dumps(case) for case in self.config.stash[CASES])
        head = {"schema": "qpass-aot/1", "jax": jax.__version__, "compilers": _compilers()}
        text = json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(cases) + "\n]}\n"
        _file(self.config).write_text(text, encoding="utf-8")


def _file(config):
    return config.getoption("--aot-results", default=None)


def _compilers():
    """Versions of the compilers; TPU's is not on the path where packages are looked for."""
    library = Path(os.environ.get("TPU_LIBRARY_PATH", "nowhere/libtpu.so"))
    path = [*sys.path, str(library.parents[1])]
    names = {package: distributions(name=package, path=path) for package in PACKAGES}
    return {name: found.version for name, several in names.items() for found in [*several][:1]}
