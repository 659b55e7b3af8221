from dataclasses import replace
from html.parser import HTMLParser

import pytest

from qpass.views import to_html
from tests.views.plans import NASTY, QUERY, SCANNED, UNROLLED

_VOID = {"meta", "link", "input", "wbr", "rect", "img"}


class Page(HTMLParser):
    """Tags that are closed in order, what they link to, and the text of the sites."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.links, self.tags, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_well_formed_and_asks_the_network_for_nothing():
    page = Page(to_html(SCANNED))
    assert page.links == ["data:,"]
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert page.tags.count("tr") == len(SCANNED) + 1


def test_every_site_weight_and_reason_can_be_read():
    text = Page(to_html(SCANNED)).text
    for row in SCANNED:
        assert row.id in text
        assert row.weight in text
        assert row.reason in text
    assert "153 MB" in text
    assert "24.4 MB" in text


def test_everything_is_escaped():
    page = Page(to_html((NASTY,), title="<i>&"))
    assert page.tags.count("script") == 1
    assert not {"b", "img", "i"} & set(page.tags)
    for text in (NASTY.id, NASTY.weight, NASTY.rule_text, "<i>&"):
        assert text in page.text


def test_unrolled_layers_share_a_bar():
    html = to_html(UNROLLED)
    assert html.count('<rect class="before"') == 2
    assert "layers/{0..3}/attn/q/kernel" in Page(html).text


def test_many_leaves_end_in_one_bar():
    names = [f"{first}{second}" for first in "abcd" for second in "abcdefghij"]
    rows = [replace(QUERY, weight=name) for name in names]
    html = to_html(rows)
    assert html.count('<rect class="before"') == 25
    assert "16 other leaves" in html


@pytest.mark.parametrize("rows", [(), (SCANNED[1],)])
def test_a_plan_without_weights_has_a_page(rows):
    assert "<svg" not in to_html(rows)
    Page(to_html(rows))


def test_a_scope_that_the_id_begins_with_is_not_repeated():
    row = replace(QUERY, scope="layers/attn/q")
    assert to_html((row,)).count("<small>layers/") == 0
    assert to_html((QUERY,)).count("<small>decoder/") == 1


def test_remarks_are_shown_and_escaped():
    page = Page(to_html(SCANNED, remarks=["leaf <b> was left float"]))
    assert "leaf <b> was left float" in page.text
