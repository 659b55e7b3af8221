"""Comparing two runs: what changed is called, what did not is not, and strangers are refused."""

import math

import numpy as np
import pytest

from qpass_bench.running.regressions import IncomparableError, compare, sittings

MACHINE = {
    "platform": "cpu", "cpu": "A", "cores": 2, "flags": ["avx2"],
    "jax": "1", "python": "3", "numpy": "2", "native": "none",
}  # fmt: skip


def report(speeds, sittings=5, seed=0, noise=0.04, **machine):
    """A run of 4 rounds a sitting, whose rows have these speeds over float32.

    Sittings differ by the noise, rounds inside of one by half of it.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for case, speed in speeds.items():
        between = noise * rng.standard_normal((sittings, 1))
        within = noise / 2 * rng.standard_normal((sittings, 4))
        ratios = (speed * np.exp(between + within)).ravel().tolist()
        row = {"suite": "products", "case": case, "ratio": float(np.median(ratios))}
        rows.append({**row, "variant": "int8", "kind": "qpass", "ratios": ratios})
        rows[-1]["best_float32"] = "float32"
        rows.append({**row, "variant": "float32", "kind": "float", "ratios": [1.0] * 4 * sittings})
    run = {"schema": "1", "sittings": sittings, "rows": rows}
    return {**run, "machine": {**MACHINE, **machine}}


def called(found, verdict):
    return {change.key[1] for change in found.called(verdict)}


def test_what_changed_is_called():
    old = {f"case {i}": 1.0 + i for i in range(10)}
    new = {**old, "case 3": 0.75 * old["case 3"], "case 7": 1.4 * old["case 7"]}
    found = compare(report(old), report(new, seed=1))
    assert called(found, "regression") == {"case 3"}
    assert called(found, "improvement") == {"case 7"}
    assert len(found.changes) == 10
    (change,) = found.called("regression")
    assert change.factor == pytest.approx(0.75, rel=0.06)


def test_false_alarms_are_rare():
    """Of 40 pairs of equal runs, about one in twenty calls anything; three times that is luck.

    Every round for itself would be called all the time: those of a sitting are alike.
    """
    speeds = {f"case {i}": 2.0 for i in range(10)}
    alarms = 0
    for seed in range(40):
        found = compare(report(speeds, 5, 2 * seed), report(speeds, 5, 2 * seed + 1))
        alarms += bool(found.called("regression") or found.called("improvement"))
    assert alarms <= 6


def test_small_changes_are_found_where_the_noise_is_small():
    old, new = report({"a": 2.0}, noise=0.005), report({"a": 1.96}, seed=1, noise=0.005)
    assert called(compare(old, new), "regression") == {"a"}


def test_large_changes_are_not_called_where_the_noise_is_larger():
    old, new = report({"a": 2.0}, noise=1.0), report({"a": 1.8}, seed=1, noise=1.0)
    assert not compare(old, new).called("regression")


def test_rows_that_only_one_run_has():
    found = compare(report({"a": 1.0, "b": 1.0}), report({"a": 1.0, "c": 1.0}))
    assert [key[1] for key in (*found.gone, *found.added)] == ["b", "c"]


@pytest.mark.parametrize(
    ("change", "message"), [({"cores": 8}, "cores: 2 then, 8 now"), ({"cpu": "B"}, "cpu: A then")]
)
def test_another_machine_is_refused(change, message):
    with pytest.raises(IncomparableError, match=message):
        compare(report({"a": 1.0}), report({"a": 1.0}, **change))


def test_another_format_or_nothing_in_common_is_refused():
    with pytest.raises(IncomparableError, match="format 1, the new in 2"):
        compare(report({"a": 1.0}), {**report({"a": 1.0}), "schema": "2"})
    with pytest.raises(IncomparableError, match="no row in common"):
        compare(report({"a": 1.0}), report({"b": 1.0}))


def test_other_versions_and_too_few_sittings_are_warned_of():
    found = compare(report({"a": 1.0}), report({"a": 1.0}, jax="2"))
    assert found.warnings == ("jax: 1 then, 2 now: a change may come from there",)
    found = compare(report({"a": 1.0}, 1), report({"a": 0.1}, 1))
    assert "1 sittings tell little" in found.warnings[0]
    assert not found.called("regression")


def test_a_sitting_counts_once_with_its_median():
    row = {"ratios": [1.0, 2.0, 50.0, 4.0, 4.0, 0.1]}
    assert sittings({"sittings": 2}, row) == [math.log(2.0), math.log(4.0)]
