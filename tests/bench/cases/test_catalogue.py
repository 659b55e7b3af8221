"""Cases: real sizes, unique names, and work that is counted right."""

import math

import jax
import pytest

from qpass.errors import QPassError
from qpass_bench.cases import catalogue
from qpass_bench.cases.catalogue import Product, Sizes, Transformer, chosen
from qpass_bench.cases.transformers import _layer_shapes

EVERY = {suite: tuple(getattr(catalogue, suite)()) for suite in ("products", "blocks", "models")}
SMALL = Sizes("small", 8, 12, 4, 2, 4, layers=3)


@pytest.mark.parametrize("suite", EVERY)
def test_names_are_unique_and_say_the_suite(suite):
    names = [case.name for case in EVERY[suite]]
    assert len(set(names)) == len(names)
    assert {case.suite for case in EVERY[suite]} == {suite}


def test_decoding_and_prefill_of_every_decoder():
    for suite, networks in (("products", ("Llama-3-70B", "Qwen3-30B-A3B")), ("blocks", ("Gemma",))):
        for network in networks:
            own = [c for c in EVERY[suite] if c.name.startswith(network)]
            assert {getattr(c, "m", c.tokens) for c in own} == {1, 4, 16, 128, 512, 2048}


def test_a_product_counts_its_work():
    case = Product("a", "b", m=3, k=5, n=7, experts=2)
    assert (case.parameters, case.ops, case.tokens) == (70, 2 * 2 * 3 * 5 * 7, 3)


@pytest.mark.parametrize("decoder", [True, False])
def test_parameters_of_a_layer_are_those_of_its_weights(decoder):
    heads = 2 if decoder else 4
    sizes = Sizes("small", 16, 12, 4, heads, 4, layers=3, decoder=decoder)
    leaves = jax.tree_util.tree_leaves_with_path(_layer_shapes(sizes))
    weights = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    assert sum(math.prod(leaf.shape) for leaf in weights) == 3 * sizes.layer_parameters


def test_a_prompt_needs_the_head_once_and_a_decoding_step_always():
    whole = Sizes("small", 8, 12, 4, 2, 4, layers=3, vocab=100)
    layers, head = 3 * SMALL.layer_parameters, 800
    prefill = Transformer(whole, "prefill", 2, length=5)
    decode = Transformer(whole, "decode", 2, steps=5)
    assert prefill.ops == 2 * 2 * (5 * layers + head)
    assert decode.ops == 2 * 2 * 5 * (layers + head)
    assert (prefill.tokens, prefill.reads, decode.tokens, decode.reads) == (10, 1, 10, 5)


def test_sizes_of_published_models():
    """Parameters in products, as the models' cards give them, within a tenth."""
    assert catalogue.LLAMA_8B.layer_parameters * 32 == pytest.approx(7.0e9, rel=0.1)
    assert catalogue.LLAMA_70B.layer_parameters * 80 == pytest.approx(68.5e9, rel=0.1)
    (smollm,) = [c for c in EVERY["models"] if c.name == "SmolLM2-135M decode batch 1"]
    assert smollm.parameters == pytest.approx(134.5e6, rel=0.01)


def test_a_filter_is_a_regular_expression():
    found = chosen(EVERY["products"], "llama-3-8b UP .* m=1$")
    assert [c.name for c in found] == ["Llama-3-8B up 4096x14336 M=1"]
    assert chosen(EVERY["products"], "nothing") == ()


def test_every_quick_case_is_a_case():
    quick = [c.name for suite in EVERY.values() for c in chosen(suite, quick=True)]
    assert set(quick) == set(catalogue.QUICK)


def test_a_filter_that_is_no_regular_expression_is_an_error():
    with pytest.raises(QPassError, match=r"'\(' is no regular expression"):
        chosen(EVERY["products"], "(")
