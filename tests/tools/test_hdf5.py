"""Videos in HDF5 files: MCVD's shards and plain arrays, read frame by frame, also after a fork."""

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pytest
from media import flat, names
from shards import put_shard

from tools import hdf5
from tools.hdf5 import Hdf5Source
from tools.sources import SOURCES
from tools.tree import HDF5, find_videos


def source(root, **options):
    return Hdf5Source(find_videos(root, also=HDF5), root, **options)


@pytest.fixture
def shards(tmp_path):
    """Five videos over three shards; no two frames of them are alike."""
    videos = [flat(seed, t=3 + seed) for seed in range(5)]
    for number, part in enumerate((videos[:2], videos[2:3], videos[3:]), 9):
        put_shard(tmp_path / f"shard_{number:04d}.hdf5", part, target=range(len(part)))
    return tmp_path, videos


# --- MCVD's layout -------------------------------------------------------------------------------------------

def test_numbers_begin_anew_in_each_shard(shards):
    root, videos = shards
    data = source(root)
    assert len(data) == 5 and [data.num_frames(i) for i in range(5)] == [3, 4, 5, 6, 7]
    assert all(np.array_equal(data.read(i), video) for i, video in enumerate(videos))
    assert names(data) == ["shard_0009_000000", "shard_0009_000001", "shard_0010_000000", "shard_0011_000000",
                           "shard_0011_000001"]
    assert [data.label(i) for i in range(5)] == [0, 1, 0, 0, 1]


def test_only_the_wanted_frames_are_read(shards):
    root, videos = shards
    with h5py.File(root / "shard_0011.hdf5", "a") as file:
        for t in (0, 2, 4, 6):
            del file["1"][str(t)]
    data = source(root)
    assert np.array_equal(data.read(4, 1, 6, 2), videos[4][1:6:2])
    with pytest.raises(ValueError, match=r"shard_0011.hdf5: damaged .*data.on_error=skip") as error:
        data.read(4, 1, 3)
    assert "\n" not in str(error.value)


def test_frames_without_colour_become_three_alike(tmp_path):
    video = flat(t=4)[..., 0]
    put_shard(tmp_path / "a.h5", [video])
    assert np.array_equal(source(tmp_path).read(0, 1), np.stack([video[1:]] * 3, -1))


def test_some_of_the_videos(shards):
    root, videos = shards
    data = source(root)
    some = data.only([4, 1, 2])
    assert len(data) == 5 and len(some) == 3 and np.array_equal(some.read(0), videos[4])
    assert np.array_equal(some.only([1]).read(0), videos[1]) and names(some.only([2])) == ["shard_0010_000000"]


def test_the_same_file_name_in_two_folders(tmp_path):
    for side in ("train", "test"):
        put_shard(tmp_path / side / "shard_0001.hdf5", [flat(t=3)])
    assert names(source(tmp_path)) == ["test_shard_0001_000000", "train_shard_0001_000000"]
    assert len(set(source(tmp_path).paths)) == 2


def test_a_video_of_no_frames_is_told_when_it_is_read(tmp_path):
    put_shard(tmp_path / "a.h5", [flat(), []])
    data = source(tmp_path)
    assert data.num_frames(1) == 0
    with pytest.raises(ValueError, match=r"a.h5 video 1: has 0 frames"):
        data.read(1)


def test_frames_of_two_sizes_are_told(tmp_path):
    put_shard(tmp_path / "a.h5", [[flat()[0], flat(h=8)[0]]])
    with pytest.raises(ValueError, match=r"frame 1 of video 0 is \(8, 24, 3\), others are \(16, 24, 3\)"):
        source(tmp_path).read(0)


# --- files of arrays -----------------------------------------------------------------------------------------

def test_every_array_of_frames_is_a_video(tmp_path):
    colour, grey, many = flat(1, t=5), flat(2, t=4)[..., 0], np.stack([flat(3), flat(4)])
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["obs/front"], file["grey"], file["many"] = colour.astype(np.int64), grey, many
        file["action"], file["speeds"] = np.zeros((5, 4)), np.zeros((5, 4, 3))
    data = source(tmp_path)
    assert names(data) == ["demo_grey", "demo_many_000000", "demo_many_000001", "demo_obs_front"]
    assert np.array_equal(data.read(0, 1, 4, 2)[..., 0], grey[1:4:2])
    assert np.array_equal(data.read(2, 2), many[1, 2:]) and np.array_equal(data.read(3, 0, 5, 4), colour[::4])
    assert data.label(0) is None


def test_values_that_are_no_grey_levels_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.full((3, 4, 4), 300)
    with pytest.raises(ValueError, match=r"a.h5: int64 values 300..300; wanted whole numbers 0..255"):
        source(tmp_path).read(0)


def test_what_is_no_file_of_videos_is_told(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"a.h5: damaged or not an HDF5 file") as error:
        source(tmp_path)
    assert "\n" not in str(error.value)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"a.h5: holds no video; wanted MCVD's layout"):
        source(tmp_path)


# --- processes -----------------------------------------------------------------------------------------------

def _read(data, i, queue):
    queue.put((os.getpid(), data.read(i).tobytes()))


def test_other_processes_read_with_files_of_their_own(shards):
    root, videos = shards
    data = source(root)
    data.read(0)  # open here, before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_read, args=(data, i, queue)) for i in (0, 4)]
    for worker in workers:
        worker.start()
    read = dict(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert set(read.values()) == {videos[0].tobytes(), videos[4].tobytes()}
    assert np.array_equal(data.read(1), videos[1])


def test_no_file_stays_open_over_a_fork(shards):
    data = source(shards[0])
    data.read(0)
    assert hdf5._handles.files
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    process.join()
    assert not hdf5._handles.files


def test_only_so_many_files_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_OPEN", 2)
    for number in range(5):
        put_shard(tmp_path / f"{number}.h5", [flat(number)])
    data = source(tmp_path)
    assert all(np.array_equal(data.read(i), flat(i)) for i in (0, 1, 2, 3, 4, 0))
    assert len(hdf5._handles.files) <= 2


def test_it_is_copied_without_its_files(shards):
    data = source(shards[0])
    data.read(0)
    assert np.array_equal(pickle.loads(pickle.dumps(data)).read(3), shards[1][3])


# --- as a folder of videos -----------------------------------------------------------------------------------

def test_sides_of_shards_in_any_folder(tmp_path):
    put_shard(tmp_path / "train/shard_0001.hdf5", [flat(1), flat(2)])
    put_shard(tmp_path / "test/shard_0001.hdf5", [flat(3)])
    for split, seeds in (("train", [1, 2]), ("test", [3]), ("all", [3, 1, 2])):
        data = SOURCES.bind({"name": "VIDEOS", "split": split})(tmp_path)
        assert [data.read(i).tobytes() for i in range(len(data))] == [flat(seed).tobytes() for seed in seeds]
    assert len(SOURCES.bind("VIDEOS")(tmp_path / "train/shard_0001.hdf5")) == 2
