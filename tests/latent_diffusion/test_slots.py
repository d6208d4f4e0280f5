"""The grid of clips over a video, against the rule that defines it."""

import itertools

import pytest

from latent_diffusion.slots import make_grid

CASES = [(n, t, v) for n, t in itertools.product(range(1, 40), (1, 2, 3, 5, 8)) for v in range(t)]


def test_clips_begin_where_the_rule_says():
    for n, t, overlap in CASES:
        grid = make_grid(n, t, overlap)
        if n < t:
            assert grid.starts == (0,) and grid.frames == t
            continue
        assert grid.frames == n
        assert grid.starts == tuple(min(k * (t - overlap), n - t) for k in range(grid.count))


def test_every_frame_lies_in_a_clip_and_every_clip_in_the_video():
    for n, t, overlap in CASES:
        for whole in (False, True):
            grid = make_grid(n, t, overlap, whole=whole)
            spans = [grid.span(slot) for slot in range(grid.count)]
            assert sorted(set(itertools.chain(*spans))) == list(range(grid.frames)) and grid.frames >= n
            assert all(len(span) == t for span in spans)


def test_neighbours_share_no_less_than_the_overlap_and_no_clip_is_idle():
    for n, t, overlap in CASES:
        starts = make_grid(n, t, overlap).starts
        paces = [b - a for a, b in itertools.pairwise(starts)]
        assert all(0 < pace <= t - overlap for pace in paces)
        assert set(paces[:-1]) <= {t - overlap}  # only the last may lie closer


def test_whole_clips_only_run_over_the_end():
    for n, t, overlap in CASES:
        grid, plain = make_grid(n, t, overlap, whole=True), make_grid(n, t, overlap)
        assert grid.starts == tuple(k * (t - overlap) for k in range(plain.count))
        assert grid.frames - n < t


@pytest.mark.parametrize("frames, clip, overlap", [(0, 4, 0), (-1, 4, 0), (8, 4, 4), (8, 4, -1)])
def test_nonsense_is_refused(frames, clip, overlap):
    with pytest.raises(ValueError, match="frame"):
        make_grid(frames, clip, overlap)
