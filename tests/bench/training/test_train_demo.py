"""Training by recipes, in tiny sizes on numbers that need no download."""

import io
import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import qpass
from qpass_bench.models import fetch
from qpass_bench.training import classifier, data, decoder, demo, parts, recipes
from qpass_bench.training.gradients import differences
from qpass_bench.training.tasks import Task
from qpass_bench.training.trainer import Trainer

MODULUS = 8


def split():
    """Counting in circles: what comes next can be learned."""
    codes = (np.arange(64)[:, None] + np.arange(2)).astype(np.int32) % MODULUS
    return data.Split((codes[:48],), (codes[48:],))


def init(key):
    first, second = jax.random.split(key)
    return {
        "layers": {"up": jax.random.normal(first, (MODULUS, 32)) * 0.3},
        "head": jax.random.normal(second, (32, MODULUS)) * 0.1,
    }


def surprise(params, codes):
    hidden = jnp.tanh(jax.nn.one_hot(codes[:, 0], MODULUS) @ params["layers"]["up"])
    likely = jax.nn.log_softmax(hidden @ params["head"])
    return -jnp.mean(jnp.take_along_axis(likely, codes[:, 1:], -1))


def task(**changes):
    return replace(Task("counting", init, surprise, "layers/*", split(), 6, 8, 3e-2), **changes)


def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def report():
    return demo.run(demo.Options(seeds=1), quiet(), [task()])


def test_every_recipe_learns_and_stays_near_float(report):
    (learned,) = report["tasks"]
    assert [row["name"] for row in learned["recipes"]] == [r.name for r in recipes.RECIPES]
    for row in learned["recipes"]:
        (run,) = row["runs"]
        assert run["curve"][-1][1] < 0.9 * run["curve"][0][1]
        assert abs(row["over_float"]) < 0.1
        assert (row["over_float"] == 0) == (row["name"] == "float")
    assert json.loads(json.dumps(report)) == report


def test_gradients_are_quantized_where_the_recipe_says_so(report):
    off = {row["name"]: row["gradients"] for row in report["tasks"][0]["recipes"]}
    assert off["float"] is off["QAT int4 g32"] is None
    assert 0.001 < off["int8"]["mean"] < 0.05
    assert off["int8"]["mean"] < off["fp8 current"]["mean"] < 0.2
    ends = [row["gradients_in_the_end"] for row in report["tasks"][0]["recipes"]]
    assert [end is None for end in ends] == [True, False, False, False, True]
    assert ends[1] != off["int8"]
    assert off["int8"]["worst_mean"] >= off["int8"]["mean"]


def test_a_gradient_that_is_off_counts_in_all_and_in_its_leaf():
    def loss(params, x):
        return params["a"] @ x + params["b"] @ x

    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    trainer = Trainer(task(loss=loss, path="x"), recipes.FLOAT)
    wanted = {"a": jnp.full(4, 2.0), "b": jnp.full(4, 1.0)}
    off = differences(trainer, params, (jnp.ones(4),), wanted)
    assert off == {"mean": 4 / 12, "worst": "a", "worst_mean": 0.5}


def test_parts_of_a_recipe_add_up():
    """Another batch is further away than any rounding, and finer scales round less."""
    small = {name: parts.PARTS[name] for name in ("weights alone", "and gradients in e5m2")}
    small["finer"] = parts.PARTS["all in groups of 4"]
    rows = {name: ends for name, *ends in parts.measured(task(), small)}
    assert list(rows) == ["float, another batch", *small]
    for other, alone, whole, finer in zip(*rows.values(), strict=True):
        assert 0 < alone < whole < other
        assert finer < whole


def test_seeds_differ_and_the_same_seed_is_the_same():
    trainer = Trainer(task(steps=2), recipes.FLOAT)
    first, again, other = (trainer.run(seed) for seed in (0, 0, 1))
    assert first.curve == again.curve
    assert first.curve != other.curve


def test_what_converts_is_judged_with_stored_weights(monkeypatch):
    trainer = Trainer(task(steps=1), recipes.QAT)
    judged = []
    judge = trainer.judge
    trainer.__dict__["judge"] = lambda state, params, *b: (
        judged.append(params) or judge(state, params, *b)
    )
    run = trainer.run(0)
    assert isinstance(judged[0]["layers"]["up"], qpass.QTensor)
    assert trainer.held_out(run.state, judged[0]) == pytest.approx(run.loss, rel=1e-6)


def test_what_is_too_far_off_is_named(report):
    changed = json.loads(json.dumps(report))
    assert demo.missed({"tasks": []}) == []
    row = changed["tasks"][0]["recipes"][1]
    row["over_float"], row["gradients"]["mean"] = 0.02, float("nan")
    row["gradients_in_the_end"]["mean"] = 0.06
    assert demo.missed(changed)[:3] == [
        "counting, int8: loss +2.00%, allowed 1%",
        "counting, int8: gradients at the start nan, allowed 0.05",
        "counting, int8: gradients in the end 0.060, allowed 0.05",
    ]


def test_points_of_a_curve_are_means():
    assert demo.thinned([1.0, 3.0, 5.0]) == [[1, 1.0], [2, 3.0], [3, 5.0]]
    thinned = demo.thinned([float(n) for n in range(60)])
    assert thinned[0] == [2, 0.5]
    assert len(thinned) == 30


def test_table_page_and_curves(report):
    pages = pytest.importorskip("qpass_bench.pages.training", reason="drawn with matplotlib")
    console = Console(file=io.StringIO(), width=200)
    console.print(pages.shown(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "fp8 delayed" in text
    assert "counting: 512 parameters" in text
    section = pages.section(report)
    assert "| int8 |" in section
    assert "$" not in section
    assert pages.picture(report).count("QAT int4 g32") == 1


def test_the_classifier_is_a_function_of_all_pixels():
    model = classifier.ViT(width=8, heads=2)
    params = classifier.init(model, jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (1, 28, 28))
    off = jax.grad(lambda x: classifier.loss(model, params, x, jnp.array([3])))(image)
    assert np.count_nonzero(off) == 28 * 28
    q = qpass.transform(partial(classifier.loss, model), recipes.INT8.rules("params/block*/**"))
    rows = q.plan(params, image, jnp.array([3])).rows
    assert sum(bool(row.kernel) for row in rows) == 12


def test_the_decoder_looks_back_only_and_all_its_layers_are_quantized():
    sizes = decoder.Sizes(layers=2, width=8, heads=2, length=4, vocabulary=4)
    params = decoder.init(sizes, jax.random.key(0))
    tokens = jnp.array([[0, 1, 2, 3]])
    run = jax.jit(partial(decoder.logits, sizes))
    changed = run(params, tokens.at[0, 2].set(0))
    same = np.isclose(run(params, tokens), changed, atol=1e-6).all(-1)
    assert same.tolist() == [[True, True, False, False]]
    loss, window = partial(decoder.loss, sizes), jnp.zeros((1, 5), jnp.uint8)
    rows = qpass.transform(loss, recipes.QAT.rules("layers/*")).plan(params, window).rows
    assert sum(bool(row.kernel) for row in rows) == 4


def test_what_is_held_out_is_never_learned_from(tmp_path, monkeypatch):
    text = "".join(chr(33 + n % 90) + str(n) for n in range(2000))
    monkeypatch.setattr(fetch, "fetch", lambda asset, cache: None)
    monkeypatch.setattr(data.texts, "verses", lambda path: {1: text})
    got = data.letters(16, 10)
    learned, judged = (array[0] for array in (got.train, got.held_out))
    assert learned.shape[1] == judged.shape[1] == 17
    assert len(judged) == 10
    whole = text.encode()
    start = whole.index(judged[0].tobytes())
    assert all(whole.index(window.tobytes()) + 17 <= start + 1 for window in learned)
    assert b"".join(w.tobytes()[:-1] for w in judged) == whole[-161:-1]


def test_digits_are_read_shuffled_and_split(tmp_path, monkeypatch):
    for number in range(10):
        images = [(number * 10 + n) / 100 for n in range(4) for _ in range(784)]
        (tmp_path / f"{number}.json").write_text(json.dumps({"data": images}))
    monkeypatch.setattr(fetch, "fetch_digits", lambda cache: tmp_path)
    got = data.digits(10)
    assert [len(a) for a in (*got.train, *got.held_out)] == [30, 30, 10, 10]
    images, classes = (np.concatenate(pair) for pair in zip(got.train, got.held_out, strict=True))
    np.testing.assert_array_equal((images[:, 0, 0] * 10).astype(int), classes)
    assert len(set(images[:, 5, 5].tolist())) == 40
    assert not (np.diff(classes) >= 0).all()
