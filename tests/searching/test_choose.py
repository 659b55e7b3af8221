"""The choice under a budget, against all choices that there are."""

import itertools

import numpy as np
import pytest

from qpass.errors import PlanError
from qpass.searching.choose import Option, choose, smallest


def random_groups(seed):
    rng = np.random.default_rng(seed)
    return [
        [Option(f"s{i}", float(rng.random()), int(rng.integers(1, 400))) for i in range(3)]
        for _ in range(5)
    ]


def every(groups):
    """Loss and bytes of each choice."""
    choices = itertools.product(*groups)
    return [(sum(o.loss for o in c), sum(o.nbytes for o in c)) for c in choices]


def of_groups(chosen, groups):
    return all(o in group for o, group in zip(chosen, groups, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_loses_less(seed):
    groups = random_groups(seed)
    choices = every(groups)
    least, most = min(b for _, b in choices), max(b for _, b in choices)
    for budget in (least, (least + most) // 2, most):
        chosen = choose(groups, budget)
        assert of_groups(chosen, groups)
        assert sum(o.nbytes for o in chosen) <= budget
        best = min(loss for loss, nbytes in choices if nbytes <= budget)
        assert sum(o.loss for o in chosen) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_is_smaller(seed):
    groups = random_groups(seed)
    choices = every(groups)
    least, most = min(loss for loss, _ in choices), max(loss for loss, _ in choices)
    for limit in (1.001 * least, (least + most) / 2, 1.001 * most):
        chosen = smallest(groups, limit)
        assert of_groups(chosen, groups)
        assert sum(o.loss for o in chosen) <= limit
        assert sum(o.nbytes for o in chosen) == min(b for loss, b in choices if loss <= limit)


def test_losses_may_be_gains():
    groups = [[Option("int4", -0.5, 4), Option("int8", 0.0, 8)], [Option("int4", 1.2, 4)]]
    assert [o.scheme for o in smallest(groups, 0.8)] == ["int4", "int4"]
    assert [o.scheme for o in choose(groups, 12)] == ["int4", "int4"]


def test_a_budget_is_kept_to_the_byte():
    big = [Option("int8", 0.0, 10**9 + 1), Option("int4", 1.0, 10**9)]
    assert [o.scheme for o in choose([big, big], 2 * 10**9 + 1)].count("int8") == 1
    assert [o.scheme for o in choose([big, big], 2 * 10**9)] == ["int4", "int4"]


@pytest.mark.parametrize(
    ("call", "groups", "budget", "says"),
    [
        (choose, [], 1, "at least one group"),
        (choose, [[]], 1, "at least one option"),
        (choose, [[Option("int4", float("nan"), 1)]], 1, "finite loss"),
        (choose, [[Option("int4", 0.0, 1000)]], 999, "at least 1,000 bytes; got 999"),
        (smallest, [[Option("int4", 0.3, 1000)]], 0.2, "at least 0.3; got 0.2"),
        (smallest, [[Option("int4", 0.0, 1000)]], 0.0, "positive"),
        (smallest, [], 1.0, "at least one group"),
    ],
)
def test_what_cannot_be_chosen_says_so(call, groups, budget, says):
    with pytest.raises(PlanError, match=says):
        call(groups, budget)


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(PlanError, match=r"qpass-jax\[search\]"):
        choose([[Option("int4", 0.0, 1)]], 1)
