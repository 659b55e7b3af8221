"""Compiles the kernels for CPU when qpass is installed, where there is a C++ compiler.

Without one, or with one that fails, qpass is installed all the same: the plan then names the
reason, and XLA's form of each product is taken.
"""

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "qpass_kernels/native"
# The oldest headers supported: XLA calls what was compiled with headers older than its own.
HEADERS = ["jaxlib~=0.11.1; python_version<'3.15'", "jaxlib; python_version>='3.15'"]


class BuildHook(BuildHookInterface):
    """Puts the library beside its sources (editable) or into a wheel that is then not pure."""

    def dependencies(self) -> list[str]:
        """Ask for jaxlib's headers only where there is something to compile with."""
        native = _native(self.root)
        try:
            native.compiler()
        except native.BuildError:
            return []
        return HEADERS

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure is told and changes nothing."""
        native = _native(self.root)
        self._folder = tempfile.TemporaryDirectory()
        folder = native.HERE if version == "editable" else Path(self._folder.name)
        try:
            library = native.build(folder)
        except native.BuildError as error:
            self.app.display_warning(f"without compiled kernels for CPU: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(library)] = f"{PACKAGE}/{library.name}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform(self)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel now holds."""
        self._folder.cleanup()


def _platform(hook: BuildHookInterface) -> str:
    """The platform's part of the tag that a compiled wheel has here."""
    return hook.build_config.builder.get_best_matching_tag().rsplit("-", 1)[-1]


def _native(root: str) -> ModuleType:
    """Import build.py by its path: its package needs jax, and a build has none."""
    spec = importlib.util.spec_from_file_location(
        "native_build", Path(root, "kernels", PACKAGE, "build.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
