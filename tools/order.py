"""Orders as functions of an index: nothing is listed, so a million entries cost a worker nothing.

A permutation of range(n) is a Feistel network over a grid of at least n cells, walked until it lands inside
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002); its rounds are keyed by splitmix64.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import isqrt

from tools.rng import Key, seed_of

_ROUNDS = 24        # 10 would do for a thousand entries; of five or six, fewer than 16 make some orders too rare
_BLOCK = 1024       # samples within which a mixture keeps its proportions
_WORD = (1 << 64) - 1


def shuffled(i: int, n: int, seed: int, *keys: Key) -> int:
    """Return the place of i in a permutation of range(n) that belongs to the stream (seed, *keys)."""
    assert 0 <= i < n
    rows = isqrt(n - 1) + 1
    columns = -(-n // rows)  # rows * columns >= n, by less than a row
    rounds = _round_keys(seed, *keys)
    while True:
        row, column = divmod(i, columns)
        for even, odd in rounds:
            row = (row + _mix(even + column)) % rows
            column = (column + _mix(odd + row)) % columns
        i = row * columns + column
        if i < n:
            return i


def dealt(g: int, weights: Sequence[Fraction], seed: int, *keys: Key) -> tuple[int, int]:
    """Return to which of several parts sample g belongs, and how many samples that part had before.

    Of any 1024 samples from a multiple of 1024 on each part has its share, but for roundings; within them the parts
    come in an order drawn from the stream (seed, *keys), so that no process of several gets but one of them.
    """
    if len(weights) == 1:
        return 0, g
    block, place = divmod(g, _BLOCK)
    g = block * _BLOCK + shuffled(place, _BLOCK, seed, *keys, "block", block)
    left = Fraction(sum(weights))
    for part, weight in enumerate(weights[:-1]):
        share = weight / left  # of what the parts before have left over
        before, after = (k * share.numerator // share.denominator for k in (g, g + 1))
        if after > before:
            return part, before
        g, left = g - before, left - weight
    return len(weights) - 1, g


@lru_cache(maxsize=256)
def _round_keys(seed: int, *keys: Key) -> tuple[tuple[int, int], ...]:
    words = [_mix(seed_of(seed, *keys) + number) for number in range(_ROUNDS)]
    return tuple(zip(words[::2], words[1::2]))


def _mix(word: int) -> int:  # splitmix64 (Steele, Lea and Flood, 2014)
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31
