"""A mixture of experts trained and judged, in tiny sizes on numbers that need no download."""

import io
import json
from functools import partial

import jax
import numpy as np
import pytest
from rich.console import Console

from qpass_bench.training import data, experts, mixture, recipes
from qpass_bench.training.tasks import Task

SIZES = mixture.Sizes(
    layers=2, width=16, heads=2, length=4, vocabulary=8, experts=4, chosen=2, hidden=32
)


def task():
    """Counting in circles."""
    codes = ((np.arange(48)[:, None] + np.arange(5)) % 8).astype(np.uint8)
    split = data.Split((codes[:32],), (codes[32:],))
    init, loss = partial(mixture.init, SIZES), partial(mixture.loss, SIZES)
    return Task("counting", init, loss, "layers/*", split, 12, 8, 3e-2)


@pytest.fixture(scope="module")
def report():
    quiet = Console(file=io.StringIO())
    served = (experts.SERVED[0], experts.SERVED[4])
    return experts.run(quiet, task=task(), served=served, trained=(recipes.INT8,))


def test_each_token_is_the_sum_of_its_experts():
    w = jax.tree.map(lambda x: x[0], mixture.init(SIZES, jax.random.key(0))["layers"])
    x = jax.random.normal(jax.random.key(1), (2, 3, 16))
    got = jax.jit(partial(mixture.mixed, SIZES))(x, w).reshape(-1, 16)
    rows, w = np.float64(x).reshape(-1, 16), {name: np.float64(v) for name, v in w.items()}
    for row, found in zip(rows, got, strict=True):
        scores = np.exp(row @ w["router"])
        best = np.argsort(-scores)[:2]
        gate = [row @ w["gate"][e] for e in best]
        hidden = [
            g / (1 + np.exp(-g)) * (row @ w["up"][e]) for g, e in zip(gate, best, strict=True)
        ]
        each = [h @ w["down"][e] for h, e in zip(hidden, best, strict=True)]
        wanted = sum(s * y for s, y in zip(scores[best] / scores[best].sum(), each, strict=True))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_experts_are_quantized_and_the_router_is_not(report):
    assert report["perplexity"] < 4
    assert [row["name"] for row in report["rows"]] == [
        "int8 experts",
        "fp8 layers",
        "trained in int8",
    ]
    for row in report["rows"]:
        assert row["experts"] == row["experts_in_all"] == 3
        assert row["bytes_after"] < 0.4 * row["bytes_before"]
        assert 0 < abs(row["over_float"]) < 0.1
    assert report["rows"][1]["router"].startswith("router: top_k picks from its result")
    assert json.loads(json.dumps(report)) == report


def test_what_is_too_far_off_is_named(report):
    rows = [dict(row, over_float=0.0) for row in report["rows"]]
    assert experts.missed({**report, "rows": rows}) == []
    rows[1] |= {"over_float": float("nan"), "experts": 2}
    assert experts.missed({**report, "rows": rows}) == [
        "fp8 layers: perplexity +nan%, allowed 1%",
        "fp8 layers: 2 of 3 products of experts quantized",
    ]


def test_table_and_page(report):
    pages = pytest.importorskip("qpass_bench.pages.experts", reason="drawn with the extra `bench`")
    console = Console(file=io.StringIO(), width=200)
    console.print(pages.shown(report))
    assert "fp8 layers" in console.file.getvalue()  # type: ignore[attr-defined]
    section = pages.section(report)
    assert "| trained in int8 |" in section
    assert "$" not in section
