"""Orders as functions of an index: permutations that are as good as drawn ones, and shares that are kept exactly."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from tools.order import dealt, shuffled


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 17, 100, 1000, 4097])
def test_every_entry_comes_once(n):
    assert sorted(shuffled(i, n, 5, "train") for i in range(n)) == list(range(n))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_orders_of_a_few_are_equally_likely(n):
    orders, trials = math.factorial(n), math.factorial(n) * 20
    seen = Counter(tuple(shuffled(i, n, 1, "epoch", e) for i in range(n)) for e in range(trials))
    chi2 = sum((seen[order] - 20) ** 2 / 20 for order in seen) + (orders - len(seen)) * 20
    free = orders - 1
    assert abs(chi2 - free) < 4.5 * math.sqrt(2 * free)


def test_an_order_of_many_is_well_mixed():
    n = 5000
    order = np.array([shuffled(i, n, 3, "x") for i in range(n)])
    place = np.arange(n)
    for other in (place, np.roll(order, 1), np.roll(order, 2), np.array([shuffled(i, n, 3, "y") for i in range(n)])):
        assert abs(np.corrcoef(order, other)[0, 1]) < 4.5 / math.sqrt(n)
    quarters, _, _ = np.histogram2d(place, order, bins=10)
    assert ((quarters - n / 100) ** 2 / (n / 100)).sum() < 99 + 4.5 * math.sqrt(2 * 99)
    assert np.sum(order == place) < 10  # one is expected


def test_neighbours_do_not_stay_neighbours():
    n = 5000
    order = np.array([shuffled(i, n, 3, "x") for i in range(n)])
    assert np.sum(np.abs(np.diff(order)) == 1) < 15  # two are expected


@pytest.mark.parametrize("weights", [(1,), (1, 1), (3, 1), (0.1, 0.2, 0.7), (5, 1e-3, 2, 2)])
def test_parts_are_dealt_their_shares_and_count_their_own_samples(weights):
    weights = [Fraction(w) for w in weights]
    drawn = [dealt(g, weights, 0, "mixture") for g in range(4096)]
    for part, weight in enumerate(weights):
        own = [k for p, k in drawn if p == part]
        assert sorted(own) == list(range(len(own)))  # none is missing, none comes twice
        for block in range(4):
            there = sum(p == part for p, _ in drawn[block * 1024:(block + 1) * 1024])
            assert abs(there - 1024 * weight / sum(weights)) < len(weights)


def test_the_parts_come_in_no_regular_order():
    parts = np.array([dealt(g, [Fraction(1)] * 2, 0, "mixture")[0] for g in range(1024)])
    for step in (2, 4, 8):
        assert all(0.4 < parts[rank::step].mean() < 0.6 for rank in range(step))
    assert abs(np.corrcoef(parts[1:], parts[:-1])[0, 1]) < 0.15
    other = [dealt(g, [Fraction(1)] * 2, 1, "mixture")[0] for g in range(1024)]
    assert 0.4 < np.mean(parts == other) < 0.6
