"""Single products: every case under every variant, with the kernels that ran."""

import jax.numpy as jnp
import numpy as np

from qpass_bench.products import CASES, Case, product, run
from qpass_bench.schemes import PRODUCT_VARIANTS

SMALL = (Case("small", 1, 64, 48), Case("small", 3, 64, 48))


def test_a_row_for_every_case_and_variant():
    ticks = []
    rows = run(SMALL, rounds=1, tick=lambda: ticks.append(1))
    assert len(ticks) == len(SMALL)
    assert [(row["m"], row["variant"]) for row in rows] == [
        (case.m, variant.name) for case in SMALL for variant in PRODUCT_VARIANTS
    ]
    for row in rows:
        low, high = row["ms_range"]
        assert 0 < low <= row["ms"] <= high
        assert row["ratio"] > 0
        assert (row["kernel"] == "XLA") == (row["variant"] == "float32")


def test_the_product_is_a_product():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 5)), rng.standard_normal((5, 3))
    got = product({"weight": jnp.asarray(weight)}, jnp.asarray(x))
    np.testing.assert_allclose(got, x @ weight, rtol=1e-5, atol=1e-5)


def test_cases_are_single_tokens_and_prompts():
    assert {case.m for case in CASES} == {1, 128}
    assert len(set(CASES)) == len(CASES)
