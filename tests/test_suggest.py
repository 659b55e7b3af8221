"""Suggestions: what is near, what is not, and how the sentence reads."""

from qpass.suggest import alternatives, did_you_mean, listing, nearest

TYPES = ("int8", "int4", "fp8_e4m3", "fp8_e5m2")


def test_nearest_is_sorted_by_resemblance():
    assert nearest("fp8_e4m2", TYPES) == ["fp8_e5m2", "fp8_e4m3"]


def test_nearest_gives_at_most_n():
    assert nearest("int", TYPES, n=1) in (["int8"], ["int4"])
    assert len(nearest("int", TYPES, n=2)) == 2


def test_nearest_ignores_case_and_keeps_the_spelling():
    assert nearest("router", ["Router", "mlp"]) == ["Router"]
    assert nearest("INT8", TYPES, n=1) == ["int8"]


def test_nearest_keeps_candidates_that_differ_only_in_case():
    assert sorted(nearest("w", ["W", "w"])) == ["W", "w"]


def test_nearest_gives_each_candidate_once():
    assert nearest("mlp", ["mlp", "mlp"]) == ["mlp"]


def test_nothing_near():
    assert nearest("zebra", TYPES) == []
    assert nearest("zebra", []) == []


def test_a_low_cutoff_finds_more():
    path = "params/layers/mlp/up/kernel"
    assert nearest("mpl/up", [path]) == []
    assert nearest("mpl/up", [path], cutoff=0.2) == [path]


def test_did_you_mean_names_the_near_ones():
    assert did_you_mean("fp8_e4", TYPES, n=1) == "did you mean 'fp8_e4m3'?"


def test_did_you_mean_lists_the_known_ones_when_nothing_is_near():
    assert did_you_mean("zebra", TYPES) == "known: 'int8', 'int4', 'fp8_e4m3', 'fp8_e5m2'"


def test_did_you_mean_of_nothing_is_empty():
    assert did_you_mean("zebra", ()) == ""


def test_candidates_may_be_a_generator():
    assert did_you_mean("zebra", (name for name in TYPES[:1])) == "known: 'int8'"


def test_alternatives_reads_like_a_sentence():
    assert alternatives(["a"]) == "'a'"
    assert alternatives(["a", "b"]) == "'a' or 'b'"
    assert alternatives(["a", "b", "c"]) == "'a', 'b' or 'c'"


def test_listing_says_how_many_are_left_out():
    assert listing(["a", "b", "c"], limit=2) == "'a', 'b' and 1 more"
    assert listing([]) == ""
