"""Rotations of small decoders: what is turned, that nothing changes, and why others are refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.folds.find import BOUND
from qpass.folds.hadamard import spread
from qpass.folds.rotating import _tried
from tests.folds import programs as p
from tests.folds.decoders import HEAD, HIDDEN, IDS, WIDTH, Decoder

RULES = qpass.Rule(weight="int8")
NORMS = {"layers/before/gain", "layers/between/gain", "norm/gain"}
STREAM = {"embed", "head", *(f"layers/{n}" for n in ("q", "k", "v", "o", "gate", "up", "down"))}
BIASES = {"norm/bias", "layers/before/bias", "layers/between/bias", "layers/o_bias", "positions"}
VALUES = {"layers/v", "layers/o"}


def rotations_of(fn, *args, **options):
    return qpass.transform(fn, RULES, strict=False).rotations(*args, **options)


FOUND = {
    # decoder, what the residual stream turns, whether means are kept, what each head turns
    "unrolled": (Decoder(), STREAM, False, VALUES),
    "scanned": (Decoder(scanned=True), STREAM, False, VALUES),
    "values in a cache that is carried": (
        Decoder(scanned=True, cached=True),
        STREAM,
        False,
        VALUES,
    ),
    "means and biases": (
        Decoder(scanned=True, means=True, biased=True, positions=True, factored=True),
        STREAM | BIASES,
        True,
        VALUES | {"layers/v_bias"},
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_decoder_is_turned_and_computes_the_same(name):
    decoder, stream, keeps_ones, values = FOUND[name]
    params = decoder.params()
    rotations = rotations_of(decoder, params, IDS)
    assert rotations.error <= BOUND
    first, *heads = rotations
    assert (set(first.paths), set(first.absorbed)) == (stream, NORMS)
    assert (first.size, first.block, first.keeps_ones) == (WIDTH, WIDTH, keeps_ones)
    assert heads
    assert all((set(r.paths), r.absorbed, r.size) == (values, (), HEAD) for r in heads)
    before = p.in_float64(decoder, params, IDS)
    after = p.in_float64(decoder, rotations.apply(params), IDS)
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)


def test_parameters_are_multiplied_by_the_matrix():
    """By numbers written down here, not only unchanged in their effect."""
    decoder = Decoder(scanned=True)
    params = decoder.params()
    turned = rotations_of(decoder, params, IDS)[0].apply(params, seed=5)
    q, gain = spread(WIDTH, 5), np.asarray(params["layers"]["between"]["gain"], np.float64)
    np.testing.assert_allclose(turned["embed"], np.asarray(params["embed"]) @ q, atol=1e-6)
    np.testing.assert_array_equal(turned["layers"]["between"]["gain"], 1)
    up = np.einsum("de,ld,ldf->lef", q, gain, np.asarray(params["layers"]["up"]))
    np.testing.assert_allclose(turned["layers"]["up"], up, atol=2e-6)
    down = np.asarray(params["layers"]["down"]) @ q
    np.testing.assert_allclose(turned["layers"]["down"], down, atol=1e-6)
    np.testing.assert_array_equal(turned["positions"], params["positions"])


def test_an_outlier_is_spread():
    decoder = Decoder(scanned=True)
    params = decoder.params()
    params["embed"] = params["embed"].at[:, 3].mul(100.0)
    turned = rotations_of(decoder, params, IDS).apply(params)

    def peak(x):
        return float(jnp.max(jnp.abs(x)) / jnp.sqrt(jnp.mean(x**2)))

    assert peak(turned["embed"]) < 0.7 * peak(params["embed"])


REFUSED = {
    # decoder, a product, what the reason says
    "norms after the blocks": (
        Decoder(scanned=True, post=True),
        "head/dot_general.0",
        "layers/after/gain",
        "post-norm",
    ),
    "tied": (
        Decoder(scanned=True, tied=True),
        "embed/dot_general.0",
        "norm/gain, which the products after it cannot take",
        "gather",
    ),
    "gated": (
        Decoder(scanned=True),
        "layers/down/dot_general.0",
        "multiplies two values channel by channel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_where_and_why(name):
    decoder, site, *said = REFUSED[name]
    rotations = rotations_of(decoder, decoder.params(), IDS)
    (reason,) = [r.reason for r in rotations.refusals if site in r.sites]
    assert all(text in reason for text in said), reason
    assert not any(site in r.sites for r in rotations)


SMALL = {
    # program of a stream, what the reason says
    "activation": (lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], "does not turn"),
    "mask of channels": (
        lambda p, x: jnp.where(jnp.arange(p_width()) > 2, x @ p["up"], 0.0) @ p["down"],
        "chooses channel by channel",
    ),
    "a part of the channels": (
        lambda p, x: (h := x @ p["up"])[:, :4] @ p["down"][:4] + h[:, 2:6] @ p["down"][2:6],
        "takes apart channels",
    ),
    "greatest over rows": (
        lambda p, x: jnp.max(x @ p["up"], axis=0) @ p["down"],
        "does not turn",
    ),
    "returned": (
        lambda p, x: ((h := x @ p["up"]) @ p["down"], h),
        "meets a result of the function",
    ),
    "an argument": (lambda p, x: x @ p["q"], "the argument x, which is no parameter"),
}


def p_width():
    return p.F + 2


@pytest.mark.parametrize("name", SMALL)
def test_what_does_not_turn(name):
    fn, said = SMALL[name]
    params = p.parameters(up=(p.D, p_width()), down=(p_width(), p.D), q=(p.D, p.D))
    rotations = rotations_of(fn, params, p.inputs())
    assert not rotations.found
    assert any(said in r.reason for r in rotations.refusals), rotations.refusals


def test_a_part_that_is_read_by_itself():
    """Four of twelve channels are turned, in all that read them."""
    params = p.parameters(up=(p.D, 12), down=(12, p.D))

    def fn(p, x):
        h = x @ p["up"]
        return h[:, 4:8] @ p["down"][4:8] + h @ p["down"]

    (rotation,) = rotations_of(fn, params, p.inputs())
    assert rotation.size == 4
    turned = rotation.apply(params)
    np.testing.assert_array_equal(turned["up"][:, :4], params["up"][:, :4])
    after = p.in_float64(fn, turned, p.inputs())
    np.testing.assert_allclose(after, p.in_float64(fn, params, p.inputs()), rtol=1e-5, atol=1e-5)


def test_patches_of_a_convolution():
    params = p.parameters("q", "gain", kernel=(p.D, 3, 2))

    def patched(w, x):
        h = lax.conv_general_dilated(x, w["kernel"], (1,), "VALID")
        return jnp.tanh((p.rms(h.transpose(0, 2, 1)) * w["gain"]) @ w["q"])

    (rotation,) = rotations_of(patched, params, jnp.ones((1, 3, 8)))
    assert set(rotation.paths) == {"kernel", "q"}


def test_sizes_without_a_matrix():
    params = p.parameters(up=(p.D, 7), down=(7, p.D))
    rotations = rotations_of(lambda p, x: (x @ p["up"]) @ p["down"], params, p.inputs())
    assert any("of 7 channels" in r.reason for r in rotations.refusals)


def test_sizes_in_blocks():
    params = p.parameters(up=(p.D, 10), down=(10, p.D))
    fn = lambda p, x: (x @ p["up"]) @ p["down"]  # noqa: E731
    (rotation,) = rotations_of(fn, params, p.inputs())
    assert (rotation.size, rotation.block) == (10, 2)
    assert "5 of 2" in str(rotations_of(fn, params, p.inputs()))
    after = p.in_float64(fn, rotation.apply(params), p.inputs())
    np.testing.assert_allclose(after, p.in_float64(fn, params, p.inputs()), rtol=1e-5, atol=1e-5)


def linear(p, x):
    return jnp.tanh((x @ p["up"]) @ p["down"])


def test_a_rotation_that_changes_the_result_is_undone():
    """One that forgets a reader."""
    params = p.parameters("up", "down")
    q = qpass.transform(linear, RULES)
    (right,) = q.rotations(params, p.inputs())
    wrong = replace(right, sides=right.sides[:-1])
    with q._enter((params, p.inputs()), {}) as (boundary, call):
        tried = _tried(q._plan(call, boundary), call, [wrong, right], [], BOUND)
    assert tried.found == (right,)
    assert "changes the result" in tried.refusals[0].reason


def test_what_is_refused_when_applied():
    decoder = Decoder(scanned=True, means=True)
    params = decoder.params()
    rotations = rotations_of(decoder, params, IDS)
    params["norm"]["gain"] = params["norm"]["gain"].at[1].set(0.0)
    with pytest.raises(qpass.FoldError, match="norm/gain holds zeros"):
        rotations.apply(params)
    params = p.parameters("up", "down")
    q = qpass.transform(linear, RULES)
    (rotation,) = q.rotations(params, p.inputs())
    stored = q.quantize(params, p.inputs())
    with pytest.raises(qpass.FoldError, match="rotate before quantizing"):
        rotation.apply(stored)
    with pytest.raises(qpass.FoldError, match="float parameters"):
        q.rotations(stored, p.inputs())


def test_a_gain_of_zero_is_taken_where_nothing_is_divided_by_it():
    decoder = Decoder(scanned=True)
    params = decoder.params()
    params["norm"]["gain"] = params["norm"]["gain"].at[1].set(0.0)
    rotations = rotations_of(decoder, params, IDS)
    assert rotations[0].size == WIDTH
    assert rotations.error <= BOUND
    assert HIDDEN not in [r.size for r in rotations]
