"""Moving MNIST's file: time first, then the video."""

import numpy as np
import pytest

from tools.raw import open_raw


def test_videos_of_the_file(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", array)
    raw = open_raw("SMMNIST", tmp_path)
    assert len(raw) == 3 and raw.num_frames(0) == 20 and raw.channels == 1
    assert raw.video(2).sides == ("test",) and raw.video(2).origin == "mnist_test_seq.npy#2"
    np.testing.assert_array_equal(raw.read(2, 4, 9)[..., 0], array[4:9, 2])


@pytest.mark.parametrize("array", [np.zeros((3, 20, 8, 8), np.uint8), np.zeros((20, 3, 8, 8)), np.zeros((20, 3), np.uint8)])
def test_another_array_is_refused(tmp_path, array):
    np.save(tmp_path / "mnist_test_seq.npy", array)
    with pytest.raises(ValueError, match=r"wanted uint8 \(20, videos, h, w\)"):
        open_raw("SMMNIST", tmp_path)


def test_without_the_file_videos_are_made_from_digits():
    raw = open_raw("SMMNIST", ".", {"digits": "sklearn", "count": 2, "length": 7})
    assert len(raw) == 4 and raw.num_frames(0) == 7 and raw.channels == 1
    assert [raw.video(i).sides for i in (0, 3)] == [("train",), ("test",)]
