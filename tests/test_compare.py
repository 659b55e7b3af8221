"""`compare`: the error of every site by itself, against values computed by hand."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.ops.test_values import real, sample
from tests.programs import CASES, rules

W8 = qpass.int8.per_channel()


def relative(got, wanted):
    return np.linalg.norm(np.float64(got) - wanted) / np.linalg.norm(wanted)


def test_one_site_against_float64():
    x, w = sample(4, 32), sample(32, 16, seed=1)
    found = qpass.transform(lambda p, x: x @ p["w"], rules("int8", "int8")).compare(
        {"w": jnp.asarray(w)}, x
    )
    wq = real(np.ascontiguousarray(w.T), W8, "int8").T
    wanted = relative(real(x, W8, "int8") @ wq, np.float64(x) @ w)
    (site,) = found.sites
    assert site.weight == "w"
    assert site.scheme == "int8 x int8"
    assert site.relative_error == pytest.approx(wanted, rel=1e-3)
    assert site.sqnr_db == pytest.approx(-20 * math.log10(wanted), rel=1e-3)
    assert found.result == pytest.approx(wanted, rel=1e-3)


def test_a_site_is_compared_on_the_activations_that_it_gets():
    """The second site's error is its own, not what the first one did to its input."""
    w1, w2, x = sample(32, 32), sample(32, 16, seed=1), sample(4, 32, seed=2)

    def fn(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]

    given = [qpass.Rule(path="a", weight="int4"), qpass.Rule(path="b", weight="int8")]
    found = qpass.transform(fn, given).compare({"a": jnp.asarray(w1), "b": jnp.asarray(w2)}, x)
    h = np.tanh(x @ real(np.ascontiguousarray(w1.T), qpass.int4.per_channel(), "int4").T)
    wanted = relative(h @ real(np.ascontiguousarray(w2.T), W8, "int8").T, h @ np.float64(w2))
    by_weight = {site.weight: site.relative_error for site in found.sites}
    assert by_weight["b"] == pytest.approx(wanted, rel=1e-3)
    assert [site.weight for site in found.sites] == ["a", "b"], "worst first"


def test_layers_inside_a_scan_are_told_apart():
    w, x = np.array(sample(3, 16, 16)), sample(4, 16, seed=1)
    w[1] = np.round(w[1])
    w[1, 0] = 128  # the second layer's weights lie on the lattice: no error
    case = CASES["scanned"]
    found = qpass.transform(case.fn, rules("int8")).compare({"w": jnp.asarray(w)}, x)
    ((site, errors),) = found.layers.items()
    assert site == found.sites[0].site
    assert len(errors) == 3
    assert errors[0] > 0.001
    assert errors[1] < 1e-6
    assert errors[2] > 0.001


def test_sites_in_nested_programs_are_all_there():
    def fn(p, x):
        h = jax.checkpoint(lambda h: h @ p["a"])(x)
        h = jax.jit(lambda h: h @ p["b"])(h)
        h = jax.lax.cond(h[0, 0] > -1e9, lambda h: h @ p["c"], lambda h: h @ p["d"], h)
        return jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["e"]), h)

    p = {name: jnp.asarray(sample(8, 8, seed=i)) for i, name in enumerate("abcde")}
    found = qpass.transform(fn, rules("int8")).compare(p, sample(2, 8))
    errors = {site.weight: site.relative_error for site in found.sites}
    assert set(errors) == set("abce")
    assert found.unseen == ("d/dot_general.0",), "the branch that did not run"
    assert all(0 < errors[name] < 0.02 for name in "abce")


def test_nothing_quantized_is_no_error():
    case = CASES["chain"]
    found = qpass.transform(case.fn, [qpass.Rule(path="**", keep=True)]).compare(*case.arguments())
    assert found.sites == ()
    assert found.result == 0
    assert "0" in str(found)


def test_exact_products_have_no_error():
    w = np.random.default_rng(0).integers(-7, 8, (16, 4)).astype(np.float32)
    w[0] = 7
    found = qpass.transform(lambda p, x: x @ p["w"], rules("int4")).compare(
        {"w": jnp.asarray(w)}, jnp.ones((2, 16))
    )
    assert found.sites[0].relative_error < 1e-6


@pytest.mark.parametrize("mask", [-1e30, -np.inf])
def test_masked_results_count_for_nothing(mask):
    def masked(fn):
        return lambda p, x: jnp.where(jnp.eye(4, 16) > 0, mask, fn(p, x))

    p, x = {"w": jnp.asarray(sample(32, 16))}, sample(4, 32, seed=1)
    found = qpass.transform(masked(lambda p, x: x @ p["w"]), rules("int8")).compare(p, x)
    seen = np.eye(4, 16) == 0
    got = qpass.transform(lambda p, x: x @ p["w"], rules("int8"))(p, x)[seen]
    assert found.result == pytest.approx(relative(got, (x @ p["w"])[seen]), rel=1e-3)


def test_prints():
    found = qpass.transform(CASES["chain"].fn, rules("int8")).compare(*CASES["chain"].arguments())
    assert "up/dot_general.0" in str(found)
    assert "relative error of the result" in str(found)
    assert json.loads(found.to_json())
    assert "<html" in found.to_html()
