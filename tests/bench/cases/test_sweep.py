"""Random products: the same for a seed, each scheme as often as any other, all of them possible."""

from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass_bench.cases.products import draw, error, product
from qpass_bench.cases.sweep import HAND, SCHEMES, deal, sweep
from qpass_bench.running.contenders import variants


def test_a_sweep_is_the_same_for_the_same_seed():
    one, same, other = (tuple(sweep(50, seed)) for seed in (0, 0, 1))
    assert one == same != other
    assert all(1 <= c.m <= 300 and 1 <= c.k <= 5000 and 1 <= c.n <= 5000 for c in one)
    assert len({c.seed for c in one}) == 50


def test_two_hundred_shapes_meet_every_scheme_thirty_times():
    shapes = tuple(sweep(200))
    assert all(len(set(case.schemes)) == HAND for case in shapes)
    met = Counter(name for case in shapes for name in case.schemes)
    assert set(met) == set(SCHEMES)
    assert min(met.values()) >= 30


def test_more_shapes_begin_with_the_same():
    assert tuple(sweep(20))[:5] == tuple(sweep(5))


def test_hands_differ_from_seed_to_seed():
    one, other = (next(deal(tuple(SCHEMES), np.random.default_rng(seed))) for seed in (0, 1))
    assert one != other


def test_only_float32_and_what_was_dealt_take_part():
    case = next(sweep(1))
    names = [variant.name for variant in variants(case)]
    assert names == ["float32", "float32 [out, in]", *case.schemes]


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_can_be_had_at_any_size(name):
    """Neither K nor N is a multiple of a group, a block or a vector."""
    case = next(sweep(1))
    weight, x = draw(type(case)("any", "size", 3, 131, 37))
    params = {"weight": jnp.asarray(weight)}
    q = qpass.transform(product, SCHEMES[name].rules)
    found = error(q(q.quantize(params, x), x), (weight, x))
    assert found < (0.02 if "int8 W" in name else 0.2)
