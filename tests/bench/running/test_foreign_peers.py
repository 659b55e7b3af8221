"""The real peers, each in `.venv-peers` (`make bench-peers`): they start, compute, and say no."""

from dataclasses import asdict
from pathlib import Path

import pytest

from qpass_bench.cases import catalogue
from qpass_bench.models import fetch, gguf_files
from qpass_bench.running.worker import PeerError, Worker, installed

pytestmark = pytest.mark.foreign

PEERS = {p.name: p for p in installed(Path("bench/peers/peers.json").absolute())}
PRODUCT = catalogue.describe(catalogue.Product("plain", "product", 4, 256, 320))
BLOCK = catalogue.Sizes("small", 64, 96, 4, 2, 16)
BLOCKS = [
    catalogue.Transformer(BLOCK, "decode", 2, context=8),
    catalogue.Transformer(BLOCK, "prefill", 1, 6),
    catalogue.Transformer(
        catalogue.Sizes("small", 64, 96, 4, 4, 16, decoder=False), "encode", 2, 8
    ),
]
WORST = {"float32": 1e-5, "F32": 2e-3, "int8": 0.03, "Q8_0": 0.03, "int4": 0.25, "Q4_1": 0.25}
"""Relative errors; llama.cpp keeps its cache in float16."""


@pytest.fixture(scope="module", params=["onnxruntime", "torchao"])
def tensors(request):
    with started(request.param) as worker:
        yield worker


def started(name):
    try:
        return Worker(PEERS[name], threads=2)
    except PeerError as error:
        pytest.skip(str(error))


def check(worker, case):
    for variant in worker.variants:
        loaded = worker.load(case, variant)
        assert 0 < loaded["error"] < WORST[variant.split()[0]], variant
        assert worker.run(2, variant)[1] > 0
    worker.unload()


def test_products_are_near_float64(tensors):
    check(tensors, PRODUCT)


@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: case.kind)
def test_blocks_are_near_float64(tensors, case):
    check(tensors, catalogue.describe(case))


def test_quantized_weights_are_smaller(tensors):
    float_size = tensors.load(PRODUCT, "float32")["bytes"]
    assert float_size == 4 * 256 * 320
    for variant in tensors.variants[1:]:
        most = 0.27 if variant.startswith("int8") else 0.2
        assert tensors.load(PRODUCT, variant)["bytes"] < most * float_size
    tensors.unload()


def test_whole_decoders_are_refused(tensors):
    case = catalogue.describe(
        catalogue.Transformer(catalogue.SMOLLM2, "decode", 1, context=8, steps=2)
    )
    with pytest.raises(PeerError, match="no whole decoders"):
        tensors.load(case, "float32")


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_llama_cpp_is_near_float64(kind):
    """On the real model, which it downloads: the library reads no file without a vocabulary."""
    case = catalogue.Transformer(catalogue.SMOLLM2, kind, 2, 6, context=5, steps=3)
    published = fetch.fetch(fetch.SMOLLM2)
    file = gguf_files.write_all(published, published.parent / "permuted")
    with started("llama.cpp") as worker:
        check(worker, {**asdict(case), "kind": kind, "file": str(file)})
        with pytest.raises(PeerError, match="whole models"):
            worker.load(PRODUCT, "F32")
