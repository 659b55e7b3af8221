from dataclasses import replace

import pytest

from qpass.views.fold import common_name, fold, unfolded
from tests.views.plans import HEAD, QUERY, ROUTER, SCANNED, UNROLLED, layer


def test_unrolled_layers_are_told_once_and_nothing_is_lost():
    folds = fold(UNROLLED)
    assert [entry.row.id for entry in folds] == [
        "layers/{0..3}/attn/q/dot_general.0",
        "layers/{0..3}/attn/dot_general.0",
        "dot_general.0",
        "router/dot_general.0",
    ]
    assert folds[0].row.weight == "layers/{0..3}/attn/q/kernel"
    assert sorted(row.id for entry in folds for row in entry.members) == sorted(
        row.id for row in UNROLLED
    )


@pytest.mark.parametrize(
    "change", [{"kernel": "reference"}, {"scheme": "int4 weight-only"}, {"lhs": "f32[2,8,576]"}]
)
def test_layers_that_differ_stay_apart(change):
    rows = (layer(QUERY, 0), replace(layer(QUERY, 1), **change), layer(QUERY, 2))
    folds = fold(rows)
    assert [len(entry.members) for entry in folds] == [2, 1]
    assert folds[0].row.id == "layers/*/attn/q/dot_general.0"  # 0 and 2, but not 1


def test_rows_alone_keep_their_names():
    assert [entry.row for entry in fold((HEAD, ROUTER))] == [HEAD, ROUTER]
    assert [entry.row for entry in unfolded(SCANNED)] == list(SCANNED)


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["a/0/b", "a/1/b", "a/2/b"], "a/{0..2}/b"),
        (["a/2/b", "a/1/b"], "a/{1..2}/b"),
        (["a/0/b.0", "a/1/b.0"], "a/{0..1}/b.0"),
        (["a/0/b.3", "a/1/b.9"], "a/{0..1}/b.*"),
        (["layers_07", "layers_08"], "layers_{7..8}"),
        (["plain", "plain"], "plain"),
        ([""], ""),
    ],
)
def test_common_name(names, common):
    assert common_name(names) == common


def test_texts_of_a_layer_name_its_own_sites():
    """Notes fold by their numbers; where operands come from may differ, and is not compared."""
    rows = [
        replace(
            layer(QUERY, n),
            notes=(f"layers/{n}/attn wants int4",),
            operands_from=("lhs: tokens" if n == 0 else f"lhs: layers/{n - 1}/mlp",),
        )
        for n in range(4)
    ]
    (folded,) = fold(rows)
    assert folded.row.notes == ("layers/{0..3}/attn wants int4",)
    assert folded.row.operands_from == ("lhs: tokens",)
    assert len(fold([*rows, replace(layer(QUERY, 4), notes=("another",))])) == 2
