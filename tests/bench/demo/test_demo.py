"""The demo on a model of a few thousand random weights: the whole way, without a download."""

import json
from dataclasses import replace
from io import StringIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from qpass_bench.cases.schemes import DECODER_VARIANTS
from qpass_bench.demo import demo, judge, options, retrieval
from qpass_bench.demo.options import Options
from qpass_bench.models.decoder import DecoderConfig
from qpass_bench.models.smollm import SmolLM, chat
from qpass_bench.running.progress import Stages
from tests.bench.tiny import byte_tokenizer, decoder_params

TINY = DecoderConfig(
    vocab=256, layers=2, width=64, heads=4, kv_heads=2, head_dim=16, hidden=64, rope_base=10_000.0
)
OPTIONS = Options(question="Why?", windows=2, window=16, steps=4, rounds=1)


def tiny_load(options, stages):
    params = jax.tree.map(jnp.asarray, decoder_params(TINY))
    text = np.random.default_rng(0).integers(0, TINY.vocab, (options.windows, options.window + 1))
    return SmolLM(TINY, params, byte_tokenizer(), stop=0), text.astype(np.int32)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Report, what was printed, and the folder of a run."""
    out = tmp_path_factory.mktemp("reports")
    console = Console(file=StringIO(), width=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load", tiny_load)
        report = demo.run(replace(OPTIONS, out=out), console)
    return report, console.file.getvalue(), out


def test_every_contestant_is_judged(ran):
    report, _, _ = ran
    assert [v["name"] for v in report["variants"]] == [v.name for v in DECODER_VARIANTS]
    for variant in report["variants"]:
        assert variant["perplexity"] > 1
        assert set(variant["speed"]) == {"prefill_128", "prefill_512", "decode"}
        assert all(speed["per_second"] > 0 for speed in variant["speed"].values())
        assert variant["completion"]["prompt"] == "Why?\n"
    exact, *rough = report["variants"]
    assert exact["perplexity_ratio"] == 1
    # Random weights of 64 columns: two groups of 32 each, on which 4 bits are coarse.
    ratios = [v["perplexity_ratio"] for v in rough]
    assert ratios == [pytest.approx(1, abs=0.02), pytest.approx(1, abs=0.3)]
    assert all(v["sizes"]["ratio"] < 0.4 for v in rough)


def test_the_report_is_on_disk_as_it_is_returned(ran):
    report, _, out = ran
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report
    pages = {"report.html", "plan-int8-W8A8.html", "plan-int4-W4A16-g32.html"}
    assert {path.name for path in out.iterdir()} == pages | {"report.json"}
    for name in pages - {"report.html"}:
        assert f'href="{name}"' in (out / "report.html").read_text(encoding="utf-8")


def test_plans_figures_and_words_are_printed(ran):
    report, printed, out = ran
    for words in ("Plan: int8 W8A8", "Plan: int4 W4A16 g32", "embed/embedding", "perplexity"):
        assert words in printed
    for variant in report["variants"]:
        assert f"{variant['perplexity']:.2f}" in printed
    assert "Its published weights were already rounded to 4 bits" in printed
    assert str(out / "report.html") in printed


def test_stages_are_timed(ran):
    report, _, _ = ran
    assert {"Rewrite and quantize", "Perplexity", "Time decode"} <= set(report["stages"])
    assert sum(report["stages"].values()) <= report["seconds"] + 1


def test_quick_runs_less():
    little = options.quick(Options())
    assert (little.windows, little.rounds) < (Options().windows, Options().rounds)
    assert little.out == Options().out


@pytest.mark.browser
def test_the_report_opens_in_a_browser(ran, open_page):
    _, _, out = ran
    for page in out.glob("*.html"):
        opened = open_page(page.read_text(encoding="utf-8"))
        assert opened.console == ()
        assert "<h1>" in opened.dom


@pytest.mark.checkpoint
def test_perplexity_and_sizes_on_the_real_model():
    """On 4,096 tokens: int8 within 2%, int4 within 45%; leaves at most 0.30 and 0.20 of float."""
    stages = Stages(Console(quiet=True))
    model, text = demo.load(Options(), stages)
    contestants = demo.rewrite(model, DECODER_VARIANTS, stages)
    exact, int8, int4 = judge.measure_perplexity(model, text, contestants, stages).values()
    assert text.size >= 4096
    assert int8 <= 1.02 * exact
    assert int4 <= 1.45 * exact
    _, int8, int4 = (
        judge.sizes(c.params, model.params).report(1)["quantized"] for c in contestants
    )
    assert int8["int8"]["ratio"] <= 0.30
    assert int4["int4"]["ratio"] <= 0.20


@pytest.mark.checkpoint
def test_the_real_encoder_keeps_its_rank_and_directions():
    """MRR within 1% (int8) and 3% (int4) of float, mean cosine at least 0.999 and 0.95."""
    result = retrieval.run(None, Stages(Console(quiet=True)))
    exact, int8, int4 = result["variants"]
    assert exact["reciprocal_rank"] == pytest.approx(0.2755, abs=5e-4)
    for variant, loss, cosine in ((int8, 0.01, 0.999), (int4, 0.03, 0.95)):
        assert variant["reciprocal_rank"] >= (1 - loss) * exact["reciprocal_rank"]
        assert variant["mean_cosine"] >= cosine


def test_chat_ends_where_the_answer_begins():
    assert chat("Why?").endswith("Why?<|im_end|>\n<|im_start|>assistant\n")
