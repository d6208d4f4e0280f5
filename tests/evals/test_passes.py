"""Work is dealt out whole batches at a time, and what counts of a video is what the rules say."""

from pathlib import Path

import pytest

from evals.passes import Work
from evals.protocols import load_rules


def work(known=(), batch_size=2, **changes):
    return Work(load_rules("custom").changed(changes), None, "cpu", batch_size, list(known), Path("out"))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_all_batches_are_dealt_out_once_and_alike(monkeypatch, world):
    monkeypatch.setattr("evals.passes.dist.world", lambda: world)
    dealt = []
    for rank in range(world):
        monkeypatch.setattr("evals.passes.dist.rank", lambda rank=rank: rank)
        dealt += work().share(list(range(9)))
    assert sorted(dealt) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def test_given_frames_are_left_out_at_any_stride():
    assert work([0, 1, 6]).kept(8, "exclude") == [2, 3, 4, 5, 7] and work([0, 1, 6]).kept(8, "include") == list(range(8))
    assert work([0, 1, 6], stride=3).kept(4, "exclude") == [1, 3]  # frames 3 and 9
