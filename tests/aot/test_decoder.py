"""The decoder that is timed on a GPU, compiled for one that is not there: a layer and the head."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass.ops.followed import Followed
from qpass.passes import PASSES, FuseEpilogues, epilogue
from qpass_bench.gpu import decoder
from qpass_kernels import KERNELS
from tests.aot.devices import h200, lower

pytestmark = pytest.mark.aot
LAYER = dataclasses.replace(decoder.LLAMA, layers=1, vocab=1024)
# Plans are made for where the process runs, here a CPU, whose kernels compute nothing more.
PLACED = tuple(FuseEpilogues(everywhere=True) if p is epilogue else p for p in PASSES)


@pytest.fixture(params=[(decoder.DECODE, 1), (decoder.PREFILL, 512)], ids=["decode", "prefill"])
def asked(request):
    """(rules, the arguments of a call without their numbers)."""
    rules, length = request.param
    params = jax.eval_shape(lambda: decoder.draw(LAYER))
    cache = jax.eval_shape(lambda: decoder.empty_cache(LAYER, 1024))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    return rules, (params, tokens, cache, jax.ShapeDtypeStruct((), jnp.int32))


def transformed(rules, **options):
    return qpass.transform(decoder.Decoder(LAYER), rules, kernels=KERNELS, **options)


def kernel_calls(q, args):
    """Calls of kernels in the program for an H200, with stored weights."""
    stored = jax.eval_shape(q.quantize, *args)
    return lower(h200(), q, stored, *args[1:]).compile().as_text().count("mosaic_gpu")


def followed(plan):
    """The regions of products and what follows them."""
    return [region for region in plan.regions if isinstance(region.action, Followed)]


def test_runs_in_kernels_of_ours(asked):
    rules, args = asked
    q = transformed(rules)
    quantized = [row for row in q.plan(*args, platform="cuda").rows if row.kernel]
    assert len(quantized) == 8
    assert all(row.kernel.startswith("hopper") for row in quantized)
    assert kernel_calls(q, args) >= len(quantized)


def test_what_follows_products_is_in_their_kernels(asked):
    rules, args = asked
    wanted = followed(transformed(rules).plan(*args, platform="cuda"))
    assert len(wanted) == 3  # o + x, silu(gate) * up, down + x
    q = transformed(rules, passes=PLACED)
    assert followed(q.plan(*args)) == wanted
    assert kernel_calls(q, args) >= 8
