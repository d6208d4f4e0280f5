"""Which windows are encoded, and that their pixels are those that training would read."""

import numpy as np
import pytest
import torch
from fakes import video

from latent_diffusion.encode_windows import RUN, Runs, choose_windows, cut_runs, windows_of
from tools.clips import Clips, DataConfig
from tools.mixture import Mixture


class Videos:
    """A source of random videos of these lengths, some of whose frames are damaged: (video, frame)."""

    def __init__(self, *lengths, damaged=()):
        self.frames, self.damaged, self.notes, self.reads = [video(1, n, (8, 8), seed=i)[0].numpy() for i, n in
                                                             enumerate(lengths)], set(damaged), [], 0

    def __len__(self):
        return len(self.frames)

    def num_frames(self, i):
        if (i, None) in self.damaged:
            raise ValueError(f"v{i} is damaged")
        return len(self.frames[i])

    def read(self, i, start=0, stop=None, step=1):
        self.reads += 1
        wanted = range(start, len(self.frames[i]) if stop is None else stop, step)
        if any((i, frame) in self.damaged for frame in wanted):
            raise ValueError(f"v{i} is damaged")
        return self.frames[i][start:stop:step].copy()

    def name(self, i):
        return f"v{i}"


def data(**options):
    return DataConfig(name="SHAPES", resolution=8, workers=0, **options)


def pairs(windows):
    return list(zip(windows.video.tolist(), windows.start.tolist()))


def shown(source, cfg, windows, most=3):
    """Every window's pixels by its number, as encode reads them."""
    runs = list(cut_runs(windows, range(len(windows.video))))
    reader, found = Runs(source, cfg, windows, runs), {}
    for k, run in enumerate(runs):
        for first, frames in windows_of(run, reader[k], windows, most):
            assert len(frames) <= most
            found |= {first + i: clip for i, clip in enumerate(frames)}
    return found


def test_all_windows_are_all():
    assert pairs(choose_windows(Videos(7, 5), data(), 4)) == [(0, s) for s in range(4)] + [(1, s) for s in range(2)]


def test_the_last_frames_of_a_video_are_in_some_window():
    assert pairs(choose_windows(Videos(14, 4), data(), 4, hop=4)) == [(0, 0), (0, 4), (0, 8), (0, 10), (1, 0)]


def test_random_windows_are_different_and_drawn_by_the_seed():
    source = Videos(40, 6)
    one, other = (choose_windows(source, data(), 4, per_video=5, seed=seed) for seed in (0, 1))
    assert np.bincount(one.video).tolist() == [5, 3]  # the second holds no more
    assert len(set(pairs(one))) == 8 and sorted(pairs(one)) == pairs(one)
    assert pairs(one) == pairs(choose_windows(source, data(), 4, per_video=5, seed=0)) != pairs(other)


@pytest.mark.parametrize("options", [{"windows": "centre"}, {"windows": "strided"}, {"windows": "strided", "hop": 3},
                                     {"windows": "strided", "stride": 2}])
def test_where_training_takes_fixed_windows_these_are_encoded(options):
    source, cfg = Videos(17, 9, 12), data(frames=4, **options)
    clips, seen = Clips.from_config(source, cfg, seed=0), []
    read = source.read
    source.read = lambda i, start, *rest: seen.append((i, start)) or read(i, start, *rest)
    for g in range(2 * len(clips)):
        clips[g]
    assert set(pairs(choose_windows(source, cfg, 4))) == set(seen)


def test_short_and_damaged_videos_are_refused_or_left_out():
    source = Videos(9, 3, 8, damaged=[(2, None)])
    with pytest.raises(ValueError, match=r"v2 is damaged"):
        choose_windows(source, data(), 4)
    with pytest.raises(ValueError, match=r"video v1 has 3 frames, .* needs 4; .*on_error=skip"):
        choose_windows(Videos(9, 3), data(), 4)
    chosen = choose_windows(source, data(on_error="skip"), 4)
    assert set(chosen.video) == {0} and chosen.lengths.tolist() == [9, 0, 0]
    assert [text.split()[0] for text in chosen.left_out] == ["v2:", "v1"]
    with pytest.raises(ValueError, match=r"none of the 3 videos has a window of 12 frames"):
        choose_windows(source, data(on_error="skip"), 12)


def test_windows_of_images_are_single_images():
    assert pairs(choose_windows(Videos(1, 2), data(), 3, images=True)) == [(0, 0), (1, 0), (1, 1)]


def test_one_stride_is_needed():
    with pytest.raises(ValueError, match=r"one data.stride, got \[1, 2\]"):
        choose_windows(Videos(9), data(stride=[1, 2]), 4)
    mixed = Mixture([("a", Videos(9)), ("b", Videos(9))], [1, 1], [(2,), ()])
    with pytest.raises(ValueError, match=r"one data.stride, got \[1, 2\]"):
        choose_windows(mixed, data(), 4)


@pytest.mark.parametrize("stride, hop", [(1, None), (2, None), (1, 3), (3, 40)])
def test_windows_hold_the_frames_that_training_reads(stride, hop):
    source, cfg = Videos(31, 100, 25), data(frames=4, stride=stride)
    chosen = choose_windows(source, cfg, 4, hop=hop)
    found = shown(source, cfg, chosen)
    assert sorted(found) == list(range(len(chosen.video)))
    for number, (i, start) in enumerate(pairs(chosen)):
        wanted = source.read(i, start, start + chosen.need, stride)
        assert torch.equal(found[number], torch.from_numpy(wanted))


def test_frames_that_windows_share_are_read_once():
    source = Videos(60)
    chosen = choose_windows(source, data(), 4)
    shown(source, data(), chosen)
    assert len(chosen.video) == 57 <= RUN and source.reads == 1


def test_runs_keep_to_a_video_and_leave_gaps_unread():
    chosen = choose_windows(Videos(30, 6), data(), 4, hop=13)
    assert pairs(chosen) == [(0, 0), (0, 13), (0, 26), (1, 0), (1, 2)]
    assert list(cut_runs(chosen, range(5))) == [(0, range(1)), (0, range(1, 2)), (0, range(2, 3)), (1, range(3, 5))]
    assert list(cut_runs(chosen, range(4, 5))) == [(1, range(4, 5))]


def test_a_damaged_frame_costs_only_the_windows_that_hold_it():
    source, cfg = Videos(20, damaged=[(0, 9)]), data(on_error="skip")
    chosen = choose_windows(source, cfg, 4)
    found = shown(source, cfg, chosen, most=4)  # so that the damage is met inside of a group
    assert sorted(set(range(17)) - set(found)) == [6, 7, 8, 9]
    assert all(torch.equal(clip, torch.from_numpy(source.frames[0][start:start + 4])) for start, clip in found.items())
    (run,) = cut_runs(chosen, range(17))
    assert [text.split(":")[0] for text in Runs(source, cfg, chosen, [run])[0].left_out] == \
        [f"v0 from frame {start} on" for start in (6, 7, 8, 9)]
    strict = Runs(source, data(), chosen, [run])[0]
    assert isinstance(strict, ValueError) and "damaged" in str(strict)
