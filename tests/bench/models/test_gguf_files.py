"""Files for llama.cpp hold the demo's permuted weights, in the types that their names say."""

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from qpass_bench.models import gguf_files, smollm
from tests.bench.models.test_smollm import gguf_tensors, llama, write_gguf
from tests.bench.tiny import TINY

IDS = [5, 17, 2, 250, 99]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "published.gguf", TINY, gguf_tensors(TINY))
    gguf_files.write_all(folder / "published.gguf", folder / "all", seed=3)
    return folder


def tensors(path):
    return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}


def test_the_float_file_is_the_permuted_model(folder):
    published = smollm.load(folder / "published.gguf")
    written = smollm.load(folder / "all" / "F32.gguf")
    expected = smollm.permute(published.params, published.config, seed=3)
    np.testing.assert_equal(written.params, expected)
    assert (written.config, written.stop) == (published.config, published.stop)


def test_the_float_file_computes_what_the_published_one_does(folder):
    before, after = tensors(folder / "published.gguf"), tensors(folder / "all" / "F32.gguf")
    assert not np.array_equal(before["blk.0.attn_q.weight"], after["blk.0.attn_q.weight"])
    np.testing.assert_allclose(llama(after, TINY, IDS), llama(before, TINY, IDS), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "head", "matrix", "error"),
    [("Q8_0", "Q8_0", "Q8_0", 0.01), ("Q4_1", "Q8_0", "Q4_1", 0.1)],
)
def test_other_files_hold_the_same_weights_rounded(folder, name, head, matrix, error):
    path, exact = folder / "all" / f"{name}.gguf", tensors(folder / "all" / "F32.gguf")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
    assert kinds["token_embd.weight"] == head
    assert kinds["blk.1.ffn_up.weight"] == kinds["blk.0.attn_v.weight"] == matrix
    assert kinds["output_norm.weight"] == "F32"
    for tensor, value in tensors(path).items():
        distance = np.linalg.norm(value - exact[tensor]) / np.linalg.norm(exact[tensor])
        assert distance < error


def test_files_that_are_there_stay(folder):
    path = folder / "all" / "Q8_0.gguf"
    before = path.stat().st_mtime_ns
    gguf_files.write_all(folder / "no such file", folder / "all")
    assert path.stat().st_mtime_ns == before
