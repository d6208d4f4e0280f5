"""The benchmark times what it says, and leaves the machine as it was."""

import json
import os

import numpy as np
import pytest
import torch
from media import encode, flat, moving, save

from tools import bench_data
from tools.bench_data import measure
from tools.video import read_video, resize_crop


@pytest.fixture
def videos(tmp_path):
    long = np.concatenate([moving(40, (96, 128))] * 5)
    encode(tmp_path / "videos" / "b.avi", long, "mpeg4")
    encode(tmp_path / "videos" / "a.mp4", flat(t=3), "libx264")  # too short
    encode(tmp_path / "videos" / "c.mkv", flat(t=20), "libx264")
    save(tmp_path / "videos" / "d.npy", flat(t=20))  # nothing to decode
    (tmp_path / "videos" / "e.mp4").write_bytes(b"damaged")
    return tmp_path / "videos"


def test_each_kind_of_video_file_is_measured(videos, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", "here")
    threads = torch.get_num_threads()
    result = measure(videos, frames=4, size=16, clips=2, long=300, packed=True)
    assert set(result["kinds"]) == {"avi", "mkv", "long"} and result["packed"]["ratio"] > 1
    assert (result["frames"], result["size"]) == (4, 16)
    for row in result["kinds"].values():
        assert row["files"] == 1 and all(value > 0 for value in row.values()) and row["ratio_min"] <= row["ratio"]
    assert result["kinds"]["avi"]["ratio_same"] > 2 and result["kinds"]["long"]["ratio"] > 4  # 4 of 200, and of 300
    assert json.loads(json.dumps(result)) == result
    assert os.environ["VIDEO_CACHE"] == "here" and torch.get_num_threads() == threads
    assert not [name for name in os.listdir(videos) if name.startswith(".")]


def test_what_is_compared_is_the_same_clip(videos):
    window, ways = resize_crop(read_video(videos / "b.avi", 90, 94), (192, 192)), bench_data._ways(4, 192)
    assert np.array_equal(ways["same"](videos / "b.avi", 90), window)
    assert np.abs(ways["window"](videos / "b.avi", 90).astype(int) - window).mean() < 2  # scaled before it became RGB
    floats = ways["whole"](videos / "b.avi", 90)  # enlarged: there is nothing to alias
    assert floats.dtype == np.float32 and np.abs(floats.transpose(0, 2, 3, 1) - window).max() <= 2  # rounded twice


def test_a_long_file_goes_on_without_a_jump(videos, tmp_path):
    path = bench_data._looped(videos / "b.avi", tmp_path / "long.avi", 450)
    video = read_video(path).astype(int)
    assert len(video) == 450 and len(np.unique(video[:, ::8, ::8], axis=0)) > 30
    steps = np.abs(np.diff(video, axis=0)).mean((1, 2, 3))
    assert steps[199] < 2 * steps[:39].max()  # where it turns back


def test_nothing_to_measure_is_told(tmp_path, videos):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no video file of 16 frames or more to measure"):
        measure(tmp_path / "empty")
