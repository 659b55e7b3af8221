"""The report: every figure is on the page, nothing is fetched, nothing is markup by accident."""

import re
from html.parser import HTMLParser

import pytest

from qpass_bench.demo import report
from qpass_bench.demo.svg import Bar, chart

VOID = {"meta", "link", "rect", "path", "br"}


class Strict(HTMLParser):
    """Fails on tags that do not close in order; collects text and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def variant(name, megabytes, quality, speed):
    measured = {
        "per_second": 20.0 * speed,
        "per_second_range": [18.0 * speed, 21.0 * speed],
        "ratio": speed,
        "rounds": 3,
    }
    return {
        "name": name,
        "about": f"{name} & more",
        "rules": ["Rule(path='**', weight=<int8>)"],
        "plan": "" if speed == 1 else "plan.html",
        "sizes": {"bytes": megabytes * 1e6, "ratio": megabytes / 500, "quantized": {}},
        "perplexity": quality,
        "completion": {"prompt": "Is 1 < 2?\n", "text": "Yes: <b>1</b> & $2 [/dim]"},
        "speed": dict.fromkeys(report.SPEEDS, measured),
        "reciprocal_rank": quality / 100,
        "mean_cosine": 0.9991,
    }


@pytest.fixture
def result():
    variants = [variant("float32", 500, 20.0, 1.0), variant("int8 W8A8", 135, 20.2, 2.5)]
    return {
        "date": "2025-01-01",
        "model": {"name": "A Model", "parameters": 134_500_000},
        "text": {"name": "a book", "tokens": 4096},
        "machine": {"platform": "cpu", "cores": 2, "jax": "0.0"},
        "notes": ["Only a test."],
        "variants": variants,
        "encoder": {"name": "Encoder", "words": 1000, "variants": variants},
        "stages": {},
        "seconds": 200.0,
    }


def test_every_figure_is_on_the_page(result):
    text = " ".join(parse(report.to_html(result)).text)
    for figure in ("135 MB (0.27×)", "20.20 (1.010×)", "50.0/s (2.50×)", "45.0 to 52.5"):
        assert figure in text
    for words in ("134.5 M parameters", "4,096 tokens of a book", "0.2020 (+1.0%)", "0.9991"):
        assert words in text


def test_what_models_say_is_text(result):
    page = parse(report.to_html(result))
    assert "Yes: <b>1</b> & $2 [/dim]" in "".join(page.text)
    assert "b" not in page.tags


def test_nothing_is_loaded_from_elsewhere(result):
    html = report.to_html(result)
    page = parse(html)
    assert not re.search(r"https?:|//|@import|url\(", html)
    assert page.tags.isdisjoint({"script", "img", "iframe", "object", "embed", "base"})
    targets = [value for name, value in page.attributes if name in ("src", "href")]
    assert sorted(targets) == ["data:,", "plan.html"]


def test_the_encoder_section_is_optional(result):
    assert "A second model" in report.to_html(result)
    assert "A second model" not in report.to_html({**result, "encoder": None})


def test_bars_share_a_scale_and_whiskers_show_the_range():
    svg = chart("Speed <s>", [Bar("a", 10, "ten", "c0"), Bar("b", 5, "five", "c1", 4, 20)])
    page = parse(svg)
    widths = [float(value) for name, value in page.attributes if name == "width"]
    # Coordinates are written to a tenth of a unit.
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    (path,) = [value for name, value in page.attributes if name == "d"]
    left, right = (float(x) for x in re.findall(r"^M([\d.]+) [\d.]+H([\d.]+)", path)[0])
    assert right - left == pytest.approx(16 / 20 * (2 * widths[0]), abs=0.3)
    assert "s" not in page.tags


def test_a_chart_of_zeros_is_drawn():
    assert 'width="0.0"' in chart("Nothing", [Bar("a", 0, "0", "c0")])
