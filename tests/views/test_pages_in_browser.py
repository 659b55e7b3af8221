"""The pages in a real browser: nothing on the console, and the table sorts and filters."""

import re
import struct

import pytest

from qpass.views import errors_to_html, to_html
from tests.views.plans import NASTY, SCANNED, UNROLLED
from tests.views.test_comparison import ERRORS

pytestmark = pytest.mark.browser

PAGES = {
    "plan": to_html(SCANNED),
    "unrolled": to_html(UNROLLED),
    "nasty": to_html((NASTY,)),
    "empty": to_html(()),
    "comparison": errors_to_html(ERRORS),
}


def acting(html: str, script: str) -> str:
    """The page, then a script that acts as a person would."""
    return html.replace("</body>", f"<script>{script}</script></body>")


def shown(dom: str) -> list[str]:
    """The first line of each row that is not hidden."""
    rows = re.findall(r"<tr data-kind[^>]*?( hidden[^>]*)?>(.*?)</tr>", dom, flags=re.DOTALL)
    heads = [re.search(r"<td[^>]*>(.*?)</?(?:small|td)", row) for hidden, row in rows if not hidden]
    return [re.sub("<wbr>", "", head[1]) for head in heads]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_writes_to_the_console(open_page, name):
    opened = open_page(PAGES[name])
    assert opened.console == ()
    assert "<h1>" in opened.dom


def test_a_broken_page_would_be_noticed(open_page):
    assert len(open_page(acting(PAGES["plan"], "nothing.here()")).console) == 1


def test_a_click_sorts_and_another_one_turns_it_round(open_page):
    click = "document.querySelectorAll('th button')[5].click();"
    up = open_page(acting(PAGES["plan"], click))
    down = open_page(acting(PAGES["plan"], click + click))
    order = [SCANNED[i].id for i in (1, 3, 0, 2)]  # by bytes before
    assert (shown(up.dom), up.console) == (order, ())
    assert (shown(down.dom), down.console) == (order[::-1], ())


def test_typing_filters(open_page):
    script = (
        "const box = document.querySelector('input[type=search]'); box.value = 'ROUTER keep';"
        "box.dispatchEvent(new Event('input', {bubbles: true}));"
    )
    opened = open_page(acting(PAGES["plan"], script))
    assert shown(opened.dom) == ["router/dot_general.0"]
    assert "1 of 4 shown" in opened.dom


def test_kinds_can_be_hidden(open_page):
    opened = open_page(acting(PAGES["plan"], "document.querySelector('[value=quantized]').click()"))
    assert shown(opened.dom) == [SCANNED[1].id, SCANNED[3].id]


def test_what_is_not_a_number_sorts_as_the_worst(open_page):
    click = "document.querySelectorAll('th button')[3].click();"
    opened = open_page(acting(PAGES["comparison"], click))
    assert shown(opened.dom)[0] == "dot_general.9"
    assert shown(opened.dom)[-1] == "conv.0"


@pytest.mark.parametrize("name", PAGES)
def test_a_screenshot_can_be_taken(open_page, tmp_path, name):
    file = tmp_path / "page.png"
    open_page(PAGES[name], screenshot=file, width=900, height=700)
    assert struct.unpack(">II", file.read_bytes()[16:24]) == (900, 700)
