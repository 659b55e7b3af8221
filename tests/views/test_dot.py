import re
import shutil
import subprocess

import pytest

from qpass.errors import PlanError
from qpass.views import to_dot
from tests.views.plans import HEAD, NASTY, QUERY, SCANNED, SCORES

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def test_weights_sites_and_edges():
    text = to_dot(SCANNED, edges=[(QUERY.id, SCORES.id)])
    assert f'"weight:{QUERY.weight}" -> "{QUERY.id}" [label="int8 x int8"];' in text
    assert f'"{QUERY.id}" -> "{SCORES.id}";' in text
    assert text.count("shape=box") == len(SCANNED)
    assert text.count("shape=cylinder") == 3
    assert text.count("dashed") == 2


def test_a_shared_weight_is_drawn_once():
    text = to_dot((HEAD, QUERY, HEAD))
    assert text.count("shape=cylinder") == 2


def test_an_edge_to_nowhere_is_refused():
    with pytest.raises(PlanError, match="the plan has no site 'nowhere'"):
        to_dot(SCANNED, edges=[(QUERY.id, "nowhere")])


def test_names_cannot_leave_their_quotes():
    rest = _QUOTED.sub("", to_dot((NASTY,)))
    assert '"' not in rest
    assert "script" not in rest


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it():
    text = to_dot((*SCANNED, NASTY), edges=[(QUERY.id, NASTY.id)])
    run = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
