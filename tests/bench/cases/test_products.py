"""Single products: what is multiplied, in both layouts, and how wrong a result is."""

import numpy as np
import pytest

from qpass_bench.cases import products
from qpass_bench.cases.catalogue import Product
from qpass_bench.cases.schemes import FLOATS, Variant

CASES = (Product("a", "b", 3, 8, 5, seed=7), Product("a", "b", 3, 8, 5, experts=2))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", FLOATS, ids=lambda variant: variant.name)
def test_the_product_is_a_product(case, variant):
    drawn = weight, x = products.draw(case)
    made = products.setup(case, variant, drawn)
    got = made.forward(made.params, *made.example)
    assert got.dtype == variant.dtype
    tolerance = 1e-6 if variant.dtype == "float32" else 1e-2
    assert products.error(got, drawn) < tolerance
    exact = np.float64(x) @ np.float64(weight)
    np.testing.assert_allclose(np.float64(got), exact, rtol=0.1, atol=tolerance * 10)


def test_turned_weights_lie_the_other_way_round():
    drawn = products.draw(CASES[0])
    shapes = [
        products.setup(CASES[0], variant, drawn).params["weight"].shape
        for variant in (Variant("as it is", ""), Variant("turned", "", turned=True))
    ]
    assert shapes == [(8, 5), (5, 8)]


def test_arrays_are_drawn_as_peers_are_told():
    weight, x = products.draw(CASES[0])
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(weight, rng.standard_normal((8, 5), "float32"))
    np.testing.assert_array_equal(x, rng.standard_normal((3, 8), "float32"))


def test_an_error_is_relative():
    drawn = weight, x = products.draw(CASES[0])
    assert products.error(1.25 * (x @ weight), drawn) == pytest.approx(0.25, abs=1e-5)
