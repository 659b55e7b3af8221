"""What a training step costs, in tiny sizes: who takes part, who does not, and what is told."""

import json

import jax
import numpy as np
import pytest

from qpass_bench.running import memory
from qpass_bench.training import classifier, contenders, decoder, speed

SIZES = decoder.Sizes(layers=1, width=8, heads=2, length=4, vocabulary=8)
TINY = contenders.cases(SIZES, classifier.ViT(width=8, blocks=1, heads=2), width=16)


def test_all_take_a_step_and_who_does_not_is_named(monkeypatch):
    monkeypatch.setattr(speed, "names", lambda: ("float", "int8", "Qwix int8"))
    report = speed.run([(TINY[0], False)], rounds=2, peak=lambda case, name: 7)
    assert [row["variant"] for row in report["rows"]] == ["float", "int8"]
    assert report["rows"][0]["over_float"] == 1
    assert all(row["ms"] > 0 and row["temporary_bytes"] > 0 for row in report["rows"])
    assert {row["peak_bytes"] for row in report["rows"]} == {7}
    why = {
        "case": "decoder",
        "variant": "Qwix int8",
        "why": "TypeError: quantizes Flax modules only",
    }
    assert report["missing"] == [why]
    assert json.loads(json.dumps(report)) == report


@pytest.mark.filterwarnings("ignore:.*VariableState.*:DeprecationWarning")
def test_qwix_quantizes_what_it_is_compared_in():
    pytest.importorskip("qwix", reason="a peer")
    case = TINY[2]
    assert case.name == "blocks of 16"
    plain, peer = (contenders.enter(case, False, name) for name in ("float", "Qwix int8"))
    params = jax.jit(plain.task.init)(jax.random.key(0))
    losses = [float(jax.jit(t.task.loss)(params, *t.task.split.train)) for t in (plain, peer)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_remat_computes_again_and_changes_nothing(case):
    tasks = [case.task(remat) for remat in (False, True)]
    params = jax.eval_shape(tasks[0].init, jax.random.key(0))
    texts = [str(jax.make_jaxpr(jax.grad(t.loss))(params, *t.split.train)) for t in tasks]
    assert ["remat" in text or "checkpoint" in text for text in texts] == [False, True]


def test_cases_are_chosen_by_their_titles():
    titles = [speed.title(*pair) for pair in speed.chosen("decoder")]
    assert titles == ["decoder", "decoder, remat"]
    assert len(speed.chosen()) == 6


@pytest.mark.skipif(not memory.supported(), reason="the system does not tell")
def test_the_most_that_a_process_holds_counts_what_a_step_needs(monkeypatch):
    """Beside the sizes of arrays, which are known: 64 MB come and go."""
    monkeypatch.setattr(speed, "_entered", lambda *asked: (lambda: np.ones(2**23).sum(), {}))
    assert speed.most("decoder", "float") > 0.9 * 2**26
