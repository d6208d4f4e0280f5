"""A download that has a reader is a source: sides, and frames at any step."""

from types import SimpleNamespace

import numpy as np
import pytest
from media import names

from tools.raw_source import RawSource


class Raw:
    """Videos of ten frames; every pixel of frame t of video i is 10 i + t. It notes what it is asked for."""
    notes, classes, channels = ["a remark"], ["a", "b"], 1

    def __init__(self, *sides):
        self.sides, self.asked = sides, []

    def __len__(self):
        return len(self.sides)

    def video(self, i):
        return SimpleNamespace(name=f"v{i}", origin=f"f/{i}", sides=self.sides[i], label=i - 1)

    def num_frames(self, i):
        return 10

    def read(self, i, start, stop):
        self.asked.append((start, stop))
        return np.stack([np.full((2, 2, 1), 10 * i + t, np.uint8) for t in range(start, stop)])


def source(raw, split="all", by_frame=False):
    return RawSource(raw, split, root="somewhere", by_frame=by_frame)


def test_each_side_has_its_videos(tmp_path):
    raw = Raw(("train",), ("test",), ("val",), ("train",))
    assert names(source(raw, "train")) == ["v0", "v3"] and names(source(raw, "test")) == ["v1"] and len(source(raw)) == 4
    assert source(raw, "train").read(1, 4, 5).max() == 34
    data = RawSource(raw, "train", tmp_path, by_frame=False)
    assert data.paths == [tmp_path / "f/0", tmp_path / "f/3"] and data.notes == ["a remark"]
    assert [data.label(i) for i in range(2)] == [None, 2] and data.classes == ("a", "b") and data.channels == 1


def test_val_stands_in_for_an_absent_test_side():
    assert names(source(Raw(("train",), ("val",)), "test")) == ["v1"]
    with pytest.raises(ValueError, match=r"somewhere: none of its 1 videos is on the test side; use data.split=all"):
        source(Raw(("train",)), "test")


@pytest.mark.parametrize("by_frame, asked", [(False, [(1, 8)]), (True, [(1, 2), (4, 5), (7, 8)])])
def test_frames_apart_are_read_one_by_one_only_where_that_is_cheap(by_frame, asked):
    raw = Raw(())
    assert source(raw, by_frame=by_frame).read(0, 1, 10, 3)[:, 0, 0, 0].tolist() == [1, 4, 7] and raw.asked == asked


def test_there_is_nothing_beyond_the_end():
    data = source(Raw(()))
    assert data.read(0).shape == (10, 2, 2, 1)
    for window in ((-1, 2), (0, 11), (5, 5), (0, 5, 0)):
        with pytest.raises(ValueError, match="v0: has 10 frames"):
            data.read(0, *window)
