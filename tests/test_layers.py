"""What the linter of imports cannot see: the private parts of jax, and imports inside functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "qpass": ROOT / "qpass",
    "qpass_kernels": ROOT / "kernels" / "qpass_kernels",
    "qpass_bench": ROOT / "bench" / "qpass_bench",
}
KNOWS_JAX_VERSIONS = PACKAGES["qpass"] / "graph" / "_jax.py"


def imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_jax(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    attributes = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return [name for name in (*imports(file), *attributes) if f"{name}.".startswith("jax._src.")]


def offenders(folder: Path, *forbidden: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted(folder.rglob("*.py"))
        for name in imports(file)
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in forbidden)
    ]


def test_private_jax_is_named_in_one_file_at_most():
    files = [f for folder in PACKAGES.values() for f in sorted(folder.rglob("*.py"))]
    found = {str(f.relative_to(ROOT)): private_jax(f) for f in files if f != KNOWS_JAX_VERSIONS}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        (PACKAGES["qpass_kernels"], ("qpass", "qpass_bench")),
        (PACKAGES["qpass"] / "graph", ("qpass.numerics", "qpass.ops", "qpass.api", "qpass.views")),
        (PACKAGES["qpass"] / "numerics", ("qpass.graph", "qpass.ops", "qpass.api", "qpass.views")),
        (PACKAGES["qpass"] / "views", ("jax", "qpass.graph", "qpass.numerics", "qpass.api")),
    ],
    ids=["kernels", "graph", "numerics", "views"],
)
def test_lower_layers_do_not_reach_up(folder, forbidden):
    assert offenders(folder, *forbidden) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import jax._src.core", ["jax._src.core"]),
        ("from jax import _src", ["jax._src"]),
        ("def f():\n    from jax._src import core", ["jax._src.core"]),
        ("import jax\nx = jax._src.core", ["jax._src", "jax._src.core"]),
        ("import jax.numpy as jnp\nfrom jax import lax", []),
    ],
)
def test_private_jax_is_found(tmp_path, text, names):
    file = tmp_path / "code.py"
    file.write_text(text)
    assert sorted(private_jax(file)) == names
