"""How the CPU library is compiled, named and put into a wheel; the compiler here is a script."""

import shutil
import zipfile
from pathlib import Path

import pytest

from qpass_kernels.native import build

ROOT = Path(__file__).parents[2]
# Notes that it was called, and writes to the file after -o.
WRITES = 'echo "$@" >> "$0.log"; while [ "$1" != -o ]; do shift; done; echo compiled > "$2"'
FAILS = 'echo "no such instruction" >&2; exit 1'


@pytest.fixture
def cxx(tmp_path, monkeypatch):
    """Make a shell script the compiler; returns the file that each call is noted in."""

    def named(script):
        file = tmp_path / "cxx"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("CXX", str(file))
        return file.with_suffix(".log")

    return named


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    return out


def test_the_name_holds_the_interface_and_the_sources(cxx, folder):
    cxx(WRITES)
    library = build.build(folder)
    major, minor = build.ffi_version(build.include_dir())
    assert library.name == f"libqpass_cpu-ffi{major}.{minor}-{build.source_hash()}.so"
    assert [file.name for file in folder.iterdir()] == [library.name]


def test_what_is_there_is_not_compiled_again(cxx, folder):
    log = cxx(WRITES)
    assert build.build(folder) == build.build(folder)
    assert len(log.read_text().splitlines()) == 1


def test_libraries_of_other_sources_are_removed_and_of_other_headers_kept(cxx, folder):
    cxx(WRITES)
    old = folder / "libqpass_cpu-ffi0.4-0123456789abcdef.so"
    other = folder / f"libqpass_cpu-ffi9.9-{build.source_hash()}.so"
    old.touch()
    other.touch()
    library = build.build(folder)
    assert set(folder.iterdir()) == {other, library}


@pytest.mark.parametrize("change", ["source", "header", "flags"])
def test_a_change_gives_another_name(tmp_path, monkeypatch, change):
    before = build.source_hash()
    shutil.copytree(build.HERE / "src", tmp_path / "src")
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.source_hash() == before
    if change == "flags":
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    else:
        name = "integer.cc" if change == "source" else "cpu.h"
        with (tmp_path / "src" / name).open("a") as file:
            file.write("// more\n")
    assert build.source_hash() != before


def test_a_compiler_that_fails_leaves_nothing_and_is_quoted(cxx, folder):
    cxx(FAILS)
    with pytest.raises(build.BuildError, match="no such instruction"):
        build.build(folder)
    assert not list(folder.iterdir())


def test_sources_changed_while_compiling_leave_nothing(cxx, folder, tmp_path, monkeypatch):
    shutil.copytree(build.HERE / "src", tmp_path / "src")
    monkeypatch.setattr(build, "HERE", tmp_path)
    cxx(f"echo // >> {tmp_path}/src/cpu.h; {WRITES}")
    with pytest.raises(build.BuildError, match="changed while"):
        build.build(folder)
    assert not list(folder.iterdir())


def test_no_compiler_says_what_to_install(monkeypatch, folder):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(build.BuildError, match=r"c\+\+, g\+\+, clang\+\+.*python -m") as error:
        build.build(folder)
    assert build.COMMAND in str(error.value)


def test_the_compiler_asked_for_is_not_replaced_by_another(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/clang++-99")
    with pytest.raises(build.BuildError, match="/nowhere/clang"):
        build.compiler()


def test_no_jaxlib(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(build.BuildError, match="jaxlib"):
        build.include_dir()


def test_the_command_prints_the_library_or_the_reason(cxx, monkeypatch, folder, capsys):
    monkeypatch.setattr(build, "build", lambda: folder / "it.so")
    assert build.main() == 0
    assert capsys.readouterr().out == f"{folder / 'it.so'}\n"

    def fails():
        raise build.BuildError("because")

    monkeypatch.setattr(build, "build", fails)
    assert build.main() == 1
    assert capsys.readouterr().err == "because\n"


def wheel(folder, monkeypatch):
    """The wheel of this checkout, made in `folder`."""
    backend = pytest.importorskip("hatchling.build", reason="the wheel's builder is not installed")
    monkeypatch.chdir(ROOT)
    return folder / backend.build_wheel(str(folder))


def test_a_wheel_with_the_library_is_for_this_platform(cxx, folder, monkeypatch):
    cxx(WRITES)
    made = wheel(folder, monkeypatch)
    assert made.stem.split("-")[2:4] == ["py3", "none"]
    assert not made.stem.endswith("-any")
    names = zipfile.ZipFile(made).namelist()
    name = build.file_name(build.include_dir())
    assert [n for n in names if n.endswith(".so")] == [f"qpass_kernels/native/{name}"]
    assert "qpass_kernels/native/src/cpu.h" in names, "it can be compiled again where it is"


def test_a_wheel_without_a_compiler_is_for_every_platform(cxx, folder, monkeypatch, capfd):
    cxx(FAILS)
    made = wheel(folder, monkeypatch)
    assert made.stem.endswith("-py3-none-any")
    assert not [n for n in zipfile.ZipFile(made).namelist() if n.endswith(".so")]
    assert "no such instruction" in "".join(capfd.readouterr())


def test_headers_are_asked_for_only_where_there_is_a_compiler(cxx, monkeypatch):
    backend = pytest.importorskip("hatchling.build", reason="the wheel's builder is not installed")
    monkeypatch.chdir(ROOT)
    cxx(WRITES)
    assert any("jaxlib" in need for need in backend.get_requires_for_build_wheel())
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert not any("jaxlib" in need for need in backend.get_requires_for_build_wheel())
