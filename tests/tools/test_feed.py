"""What a training run reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import video

from tools.clips import Clips, DataConfig, fit, open_source
from tools.feed import open_feed
from tools.loop import LoopConfig
from tools.tree import FileSource

LOOP = LoopConfig(batch_size=4, micro_batch=2)
SHAPES = DataConfig(name="SHAPES", resolution=16, frames=4, workers=0, options={"size": 16, "length": 12, "count": 5})


def feed(data=SHAPES, loop=LOOP, frames=6, seed=3, clips=4):
    return open_feed(data, loop, frames=frames, seed=seed, validation_clips=clips)


def folder(path, lengths, sides=("train",), seed=0):
    for side in sides:
        (path / side).mkdir(parents=True)
        for i, length in enumerate(lengths):
            np.save(path / side / f"{i}.npy", video(1, length, seed=seed + i)[0].numpy())
    return DataConfig(name="VIDEOS", path=str(path), resolution=16, frames=4, workers=0)


def test_batches_are_those_of_clips():
    clips = Clips(open_source(SHAPES), frames=6, size=(16, 16), seed=3)
    steps = list(feed().batches(2, 4))
    assert len(steps) == 2 and all(len(step) == 2 for step in steps)
    for number, step in enumerate(steps, 2):
        index = torch.cat([batch["index"] for batch in step])
        assert index.tolist() == list(range(4 * number, 4 * number + 4))
        frames = torch.cat([batch["frames"] for batch in step])
        assert all(torch.equal(frames[j], clips[int(g)]["frames"]) for j, g in enumerate(index))


def test_validation_is_of_the_test_side_and_fixed():
    first = feed()
    assert first.validation.shape == (4, 6, 16, 16, 3) and first.validation.dtype == torch.uint8
    assert torch.equal(first.validation, feed().validation) and not torch.equal(first.validation, feed(seed=4).validation)
    source = open_source(SHAPES, "test")
    held_out = [fit(source.read(i, s, s + 6), (16, 16)) for i in range(len(source)) for s in range(7)]
    assert all(any(np.array_equal(clip.numpy(), other) for other in held_out) for clip in first.validation)
    assert any("test videos" in note for note in first.notes)


def test_without_another_side_training_videos_are_taken_and_told(tmp_path):
    got = feed(folder(tmp_path, [8, 8, 9]))
    assert len(got.validation) == 4 and any("training videos" in note for note in got.notes)
    assert any("3 videos" in note for note in got.notes)


def test_short_videos_of_the_test_side_are_told(tmp_path):
    data = folder(tmp_path, [8, 3, 9], ("train", "test"))
    notes = feed(data).notes
    assert any("1 of 3 videos are left out" in note for note in notes)
    with pytest.raises(ValueError, match="20 frames"):
        feed(data, frames=20)


def test_stride_is_kept_in_validation(tmp_path):
    data = DataConfig(name="SHAPES", resolution=16, frames=4, stride=3, workers=0, options=dict(SHAPES.options, count=1))
    source = open_source(data, "test")
    got = open_feed(data, LOOP, frames=4, seed=0, validation_clips=1).validation[0].numpy()
    assert any(np.array_equal(got, source.read(0, s, s + 10, 3)) for s in range(3))


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="--batch_size 5"):
        feed(loop=LoopConfig(batch_size=5, micro_batch=2))


def test_the_reason_for_no_other_side_is_told(tmp_path):
    assert any("test side is empty" in note for note in feed(folder(tmp_path, [8, 8])).notes)


def test_damaged_validation_windows_are_dropped_only_if_asked(tmp_path, monkeypatch):
    data, whole = folder(tmp_path, [8, 8, 8], ("train", "test")), FileSource.read

    def torn(self, i, *span):
        if self.paths[i].parent.name == "test" and i == 1:
            raise ValueError("1.npy is damaged")
        return whole(self, i, *span)

    monkeypatch.setattr(FileSource, "read", torn)
    with pytest.raises(ValueError, match=r"1\.npy is damaged"):
        feed(data, clips=3)
    got = feed(replace(data, on_error="skip"), clips=3)
    assert len(got.validation) == 2 and any("1.npy is damaged" in note for note in got.notes)


def test_sides_of_the_same_videos_are_told(tmp_path):
    data = folder(tmp_path, [8, 8], ("train", "test"))  # alike in their names only
    assert not any("training videos too" in note for note in feed(data).notes)
    both = replace(data, options={"split": "all"})
    assert any("4 of the 4 test videos are training videos too" in note for note in feed(both).notes)


def test_single_images_make_windows_of_one_frame_and_it_is_said(tmp_path):
    data, loop = folder(tmp_path, [1, 1, 1], ("train", "test")), LoopConfig(batch_size=2)
    got = open_feed(data, loop, frames=3, seed=0, validation_clips=2, shortest=1)
    assert got.validation.shape[1] == 1 and any("windows are of 1" in note for note in got.notes)
    (batch,), = got.batches(0, 1)
    assert batch["frames"].shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="3 frames"):
        open_feed(data, loop, frames=3, seed=0, validation_clips=2)
    longer = folder(tmp_path / "longer", [1, 3], ("train", "test"))
    with pytest.raises(ValueError, match="3 frames"):  # one video is long enough: the others are too short, as ever
        next(open_feed(longer, LoopConfig(batch_size=2), frames=3, seed=0, validation_clips=1, shortest=1).batches(0, 1))


# --- several strides and datasets --------------------------------------------------------------------------------

def test_validation_has_each_of_several_strides(tmp_path):
    data = folder(tmp_path, [30], ("train", "test"))
    whole = np.load(tmp_path / "test" / "0.npy")
    got = open_feed(replace(data, stride=[1, 3]), LOOP, frames=4, seed=0, validation_clips=6).validation.numpy()
    found = [[s for s in (1, 3) for i in range(30 - 3 * s) if np.array_equal(clip, whole[i:i + 3 * s + 1:s])] for clip in got]
    assert sorted(found) == [[1]] * 3 + [[3]] * 3


def mixture(tmp_path, *sides, weights=(1, 3)):
    parts = [folder(tmp_path / f"{n}", [9] * (n + 2), own, seed=10 * n) for n, own in enumerate(sides)]
    return DataConfig(resolution=16, frames=4, workers=0, mixture=[
        {"name": part.name, "path": part.path, "weight": w} for part, w in zip(parts, weights)])


def test_validation_of_a_mixture_is_of_all_test_sides_in_their_shares(tmp_path):
    got = feed(mixture(tmp_path, ("train", "test"), ("train", "test")), clips=64)
    first = [np.load(file) for file in (tmp_path / "0" / "test").iterdir()]
    mine = sum(any(np.array_equal(clip, v[i:i + 6]) for v in first for i in range(4)) for clip in got.validation.numpy())
    assert len(got.validation) == 64 and 8 <= mine <= 24  # a quarter
    assert any("VIDEOS+VIDEOS train: 5 videos" in note for note in got.notes)
    assert any("VIDEOS2: 3 videos, 75.0%" in note for note in got.notes)


def test_a_dataset_of_a_mixture_without_a_test_side_is_told(tmp_path):
    got = feed(mixture(tmp_path, ("train",), ("train", "test")))
    assert any("validation has no window of VIDEOS1" in note and "empty" in note for note in got.notes)
    assert any("from test videos" in note for note in got.notes) and len(got.validation) == 4
    none = feed(mixture(tmp_path / "none", ("train",), ("train",)))
    assert any("from training videos (the test side cannot be opened" in note for note in none.notes)


def test_short_videos_of_a_mixture_are_told_once_with_their_dataset(tmp_path):
    data = mixture(tmp_path, ("train", "test"), ("train", "test"))
    np.save(tmp_path / "1" / "test" / "0.npy", video(1, 3)[0].numpy())
    notes = [note for note in feed(data, clips=16).notes if "left out" in note]
    assert len(notes) == 1 and notes[0].startswith("VIDEOS2: 1 of 3 videos are left out")


# --- what is left out while training -----------------------------------------------------------------------------

def skipping(tmp_path, count, **options):
    """Run two epochs over as many videos, all but the first too short; return what was told."""
    data = replace(folder(tmp_path, [8] + [2] * (count - 1)), on_error="skip", **options)
    told = []
    got = open_feed(data, LoopConfig(batch_size=count), frames=4, seed=0, validation_clips=1, log=told.append)
    assert not told  # before they are met
    list(got.batches(0, 2))
    return told


def test_each_skipped_video_is_told_once_with_the_count(tmp_path):
    told = skipping(tmp_path, 4)
    assert len(told) == 3 and "(3 of 4 videos so far)" in told[-1] and all("needs 4" in line for line in told)
    assert {line.split("leaves out ")[1].split()[0] for line in told} == {"1", "2", "3"}


def test_of_many_skipped_videos_not_every_one_has_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.feed.SHOWN", 3)
    told = skipping(tmp_path, 9, workers=1)
    assert [line.split("(")[1].split()[0] for line in told] == ["1", "2", "3", "6"]


def test_without_a_log_the_line_goes_to_stderr(tmp_path, capsys):
    data = replace(folder(tmp_path, [8, 2]), on_error="skip")
    list(open_feed(data, LoopConfig(batch_size=2), frames=4, seed=0, validation_clips=1).batches(0, 1))
    assert "leaves out 1 (1 of 2 videos so far)" in capsys.readouterr().err


@pytest.mark.parametrize("small", [0, 100])
def test_a_test_side_that_is_a_link_to_the_training_side_is_found(tmp_path, monkeypatch, small):
    monkeypatch.setattr("tools.feed.SMALL", small)
    data = folder(tmp_path, [8, 8])
    (tmp_path / "test").symlink_to(tmp_path / "train")
    assert any("2 of the 2 test videos are training videos too" in note for note in feed(data).notes)
