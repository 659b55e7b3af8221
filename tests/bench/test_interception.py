"""What becomes of small programs under qpass and under interception."""

import pytest

from qpass_bench import interception


def test_outcomes_of_peers_are_told_apart():
    assert interception.outcome(lambda: 0.0) == "stays float, no word"
    assert interception.outcome(lambda: 0.1) == "quantized"
    assert interception.outcome(lambda: {}["x"]).startswith("KeyError")


@pytest.mark.parametrize("case", interception.CASES, ids=lambda case: case.name)
def test_qpass_quantizes_every_case(case):
    assert 0 < float(interception.with_qpass(case)) < 0.1
