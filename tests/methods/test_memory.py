"""What GPTQ holds on the device: the model, a Hessian, one batch; counted in live arrays."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.methods import hessians, sequential
from tests.programs import rules

LAYERS, WIDTH, HIDDEN, ROWS = 6, 64, 96, 128
HESSIAN = 4 * HIDDEN**2
BATCH = 4 * ROWS * (3 * WIDTH + HIDDEN)


def scanned(p, x):
    def layer(h, w):
        return h + jnp.tanh(h @ w["up"]) @ w["down"], None

    return lax.scan(layer, x, p)[0]


def unrolled(p, x):
    for k in range(LAYERS):
        x = x + jnp.tanh(x @ p["up"][k]) @ p["down"][k]
    return x


def live():
    gc.collect()
    return sum(a.nbytes for a in jax.live_arrays())


@pytest.fixture
def peaks(monkeypatch):
    """Bytes of all live arrays at each product, while its weight is being quantized."""
    found, solve = [], sequential.solve_read

    def counted(*args):
        solved = solve(*args)
        found.append(live())
        return solved

    monkeypatch.setattr(sequential, "solve_read", counted)
    return found


@pytest.mark.parametrize("fn", [scanned, unrolled])
def test_gptq_holds_one_hessian_and_one_batch(fn, peaks):
    rng = np.random.default_rng(0)
    sizes = {"up": (LAYERS, WIDTH, HIDDEN), "down": (LAYERS, HIDDEN, WIDTH)}
    params = {n: jnp.asarray(rng.standard_normal(s) / 8, jnp.float32) for n, s in sizes.items()}
    batches = [rng.standard_normal((ROWS, WIDTH)).astype(np.float32) for _ in range(12)]
    q = qpass.transform(fn, rules("int4"))
    before = live()  # with the model
    q.quantize(params, method=qpass.GPTQ(), batches=batches)
    assert len(peaks) == 2 * LAYERS
    layer = 3 * 4 * WIDTH * HIDDEN  # its weights as they were, and two as they become
    assert max(peaks) - before <= 2 * HESSIAN + BATCH + layer


@pytest.mark.parametrize("fn", [scanned, unrolled])
def test_calibrate_holds_one_hessian_and_one_batch(fn, monkeypatch):
    """Sums of all layers' Hessians lie on the host, and are those that a capture holds at once."""
    rng = np.random.default_rng(0)
    sizes = {"up": (LAYERS, WIDTH, HIDDEN), "down": (LAYERS, HIDDEN, WIDTH)}
    params = {n: jnp.asarray(rng.standard_normal(s) / 8, jnp.float32) for n, s in sizes.items()}
    batches = [rng.standard_normal((ROWS, WIDTH)).astype(np.float32) for _ in range(3)]
    q = qpass.transform(fn, rules("int4"))
    stored, found, gather = q.quantize(params, batches[0]), [], hessians.Hessians.__call__

    def counted(*args):
        total = gather(*args)
        found.append(live())
        return total

    monkeypatch.setattr(hessians.Hessians, "__call__", counted)
    before = live()  # with the model
    stats = q.calibrate(stored, iter(batches), gather=("hessian",))
    assert len(found) == 2 * LAYERS * len(batches)
    assert max(found) - before <= HESSIAN + BATCH
    whole = {}
    for batch in batches:
        whole = q.capture(stored, batch, stats=whole or None, gather=("hessian",))
    for name, state in stats.items():
        assert isinstance(state["hessian"], np.ndarray)
        np.testing.assert_allclose(state["hessian"], whole[name]["hessian"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("progress", [False, True])
def test_a_batch_is_let_go_before_the_next_is_drawn(progress):
    class Batch(np.ndarray):  # of which there are weak references
        pass

    drawn = []

    def batches():
        for _ in range(3):
            gc.collect()
            assert not any(one() is not None for one in drawn)
            batch = np.ones((4, 8), np.float32).view(Batch)
            drawn.append(weakref.ref(batch))
            yield batch
            del batch

    q = qpass.transform(lambda p, x: x @ p["w"], rules("int8"))
    q.calibrate({"w": jnp.ones((8, 3))}, batches(), progress=progress)
    assert len(drawn) == 3
