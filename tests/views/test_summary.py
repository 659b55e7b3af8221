from dataclasses import replace

from qpass.views.summary import quantized_leaves, summarize
from tests.views.plans import HEAD, QUERY, RULE, SCANNED, UNROLLED


def test_sums_count_sites_and_bytes_of_quantized_leaves_only():
    summary = summarize(SCANNED)
    assert (summary.sites, summary.quantized, summary.left_float, summary.leaves) == (4, 2, 2, 2)
    assert summary.bytes_before == 39_813_120 + 113_246_208
    assert summary.bytes_after == 10_022_400 + 14_352_384


def test_a_leaf_that_two_sites_share_counts_once():
    lookup = replace(HEAD, id="gather.0", bytes_after=HEAD.bytes_after + 7)
    (leaf,) = quantized_leaves((HEAD, lookup))
    assert (leaf.bytes_before, leaf.bytes_after) == (HEAD.bytes_before, HEAD.bytes_after + 7)


def test_a_float_site_on_a_quantized_leaf_adds_nothing():
    left = replace(QUERY, id="other", scheme="", reason="no")
    assert summarize((QUERY, left)).bytes_before == QUERY.bytes_before


def test_groups_come_in_a_stable_order():
    summary = summarize(UNROLLED)
    assert summary.schemes == (("int8 x int8", 4), ("int4 weight-only", 1))
    assert summary.reasons == (("both operands are activations", 4), ("kept float by rule 2", 1))
    assert summary.rules[1] == (1, RULE, 4)
    assert [number for number, _, _ in summary.rules] == [0, 1, 2]
    assert summary.refused == (("hopper_int8", "runs on cuda, not on cpu", 4),)


def test_an_empty_plan_has_sums_too():
    summary = summarize(())
    assert (summary.sites, summary.leaves, summary.bytes_before) == (0, 0, 0)
