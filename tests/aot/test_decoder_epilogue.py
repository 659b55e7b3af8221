"""A layer of the decoder whose gate and sums are computed in its products' kernels, for an H200."""

import jax
import jax.numpy as jnp
import pytest

import qpass
from qpass.ops.followed import Followed
from qpass.passes import PASSES, FuseEpilogues, epilogue
from qpass_bench.gpu import decoder
from qpass_kernels import KERNELS
from tests.aot.devices import h200, lower
from tests.aot.test_decoder import LAYER

pytestmark = pytest.mark.aot
# Plans are made for where the process runs, here a CPU, whose kernels compute nothing more.
PLACED = tuple(FuseEpilogues(everywhere=True) if p is epilogue else p for p in PASSES)


def followed(plan):
    """The regions of products and what follows them."""
    return [region for region in plan.regions if isinstance(region.action, Followed)]


@pytest.mark.parametrize(
    ("rules", "length"),
    [(decoder.DECODE, 1), (decoder.PREFILL, 512)],
    ids=["decode", "prefill"],
)
def test_what_follows_products_is_in_their_kernels(rules, length):
    params = jax.eval_shape(lambda: decoder.draw(LAYER))
    cache = jax.eval_shape(lambda: decoder.empty_cache(LAYER, 1024))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    args = (params, tokens, cache, jax.ShapeDtypeStruct((), jnp.int32))
    usual = qpass.transform(decoder.Decoder(LAYER), rules, kernels=KERNELS)
    q = qpass.transform(decoder.Decoder(LAYER), rules, kernels=KERNELS, passes=PLACED)
    wanted = followed(usual.plan(*args, platform="cuda"))
    assert len(wanted) == 3  # o + x, silu(gate) * up, down + x
    assert followed(q.plan(*args)) == wanted
    stored = jax.eval_shape(q.quantize, *args)
    text = lower(h200(), q, stored, *args[1:]).compile().as_text()
    assert text is not None
    assert text.count("mosaic_gpu") >= 8
