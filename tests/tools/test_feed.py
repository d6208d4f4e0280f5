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


def folder(path, lengths, sides=("train",)):
    for side in sides:
        (path / side).mkdir(parents=True)
        for i, length in enumerate(lengths):
            np.save(path / side / f"{i}.npy", video(1, length, seed=i)[0].numpy())
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
