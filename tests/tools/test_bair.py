"""BAIR in each layout: TFRecords, MCVD's HDF5, folders of frames, and npz with both cameras."""

import numpy as np
import pytest
from media import flat, names, put_frames
from records import example, write_records
from shards import put_shard

from tools.sources import SOURCES
from tools.tree import FileSource


def bair(path, **options):
    return SOURCES.bind({"name": "BAIR", **options})(path)


def put_npz(path, aux, main, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, aux1_image=aux, image=main, action=np.zeros((len(aux), 4)), **more)


@pytest.mark.parametrize("given", ["", "BAIR_h5"])
def test_mcvds_shards(tmp_path, given):
    put_shard(tmp_path / "BAIR_h5/train/shard_0001.hdf5", [flat(1), flat(2)])
    put_shard(tmp_path / "BAIR_h5/test/shard_0001.hdf5", [flat(3)])
    for split, seeds in (("train", [1, 2]), ("test", [3])):
        source = bair(tmp_path / given, split=split)
        assert len(source) == len(seeds) and all(np.array_equal(source.read(i), flat(seed)) for i, seed in enumerate(seeds))
    assert len(bair(tmp_path)) == 3


def test_folders_of_frames(tmp_path):
    for side, trajectory, seed in (("train", 0, 1), ("train", 1, 2), ("test", 0, 3)):
        put_frames(tmp_path / f"bair/processed_data/{side}/traj_0_to_255.tfrecords/{trajectory}", flat(seed, t=12))
    source = bair(tmp_path, split="train")
    assert len(source) == 2 and np.array_equal(source.read(1), flat(2, t=12)) and len(set(names(source))) == 2


def test_the_original_records(tmp_path):
    file = tmp_path / "BAIR/softmotion30_44k/test/traj_0_to_255.tfrecords"
    file.parent.mkdir(parents=True)
    pixels = {"image_aux1": flat(1, h=64, w=64), "image_main": flat(2, h=64, w=64)}
    features = {f"{t}/{camera}/encoded": frames[t].tobytes() for camera, frames in pixels.items() for t in range(4)}
    write_records(file, [example(features)])
    for camera, frames in (("aux1", pixels["image_aux1"]), ("main", pixels["image_main"])):
        source = bair(tmp_path, split="test", camera=camera)
        assert len(source) == 1 and source.num_frames(0) == 4 and np.array_equal(source.read(0, 1, 4, 2), frames[1:4:2])
    with pytest.raises(ValueError, match=r"data.split=all"):
        bair(tmp_path, split="train")


def test_the_camera_is_chosen(tmp_path):
    put_npz(tmp_path / "bair/train/a.npz", flat(1, t=9).astype(np.int64), flat(2, t=9))
    for camera, seed in (("aux1", 1), ("main", 2)):
        source = bair(tmp_path, split="train", camera=camera)
        assert source.num_frames(0) == 9 and np.array_equal(source.read(0, 2, 8, 3), flat(seed, t=9)[2:8:3])
    with pytest.raises(ValueError, match=r'camera must be aux1 or main, got "left"'):
        bair(tmp_path, camera="left")


def test_a_camera_is_not_to_be_chosen_of_one(tmp_path):
    put_shard(tmp_path / "bair/train/a.h5", [flat()])
    with pytest.raises(ValueError, match=r"holds files that show one camera; data.options.camera=main needs"):
        bair(tmp_path, camera="main")


@pytest.mark.parametrize("content, why", [
    ({"x": flat()}, "holds x; wanted an array image_aux1 or aux1_image"),
    ({"aux1_image": flat().astype(float)}, "aux1_image is float64 of shape"),
    ({"aux1_image": flat()[0]}, r"of shape \(16, 24, 3\); wanted whole numbers t h w 3"),
    ({"aux1_image": flat().astype(int) + 200}, "wanted 0..255"),
])
def test_what_is_no_trajectory_is_told(tmp_path, content, why):
    (tmp_path / "bair/train").mkdir(parents=True)
    np.savez(tmp_path / "bair/train/a.npz", **content)
    with pytest.raises(ValueError, match=rf"a.npz: .*{why}"):
        bair(tmp_path).read(0)


def test_a_damaged_file_is_one_line(tmp_path):
    put_npz(tmp_path / "bair/train/a.npz", flat(), flat())
    file = tmp_path / "bair/train/a.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a.npz: damaged .*data.on_error=skip") as error:
        bair(tmp_path).read(0)
    assert "\n" not in str(error.value)


def test_length_and_window_are_read_without_the_rest(tmp_path, monkeypatch):
    put_npz(tmp_path / "bair/train/a.npz", flat(1, t=9), flat(2, t=9))
    monkeypatch.setattr("tools.tree._MEMORY", 0)
    source = bair(tmp_path)
    file = tmp_path / "bair/train/a.npz"
    whole = file.read_bytes()
    at = whole.index(flat(1, t=9)[5].tobytes())
    file.write_bytes(whole[:at] + b"\0" * 30 + whole[at + 30:])  # a broken sixth frame, which a checksum would tell
    assert source.num_frames(0) == 9 and np.array_equal(source.read(0, 1, 4), flat(1, t=9)[1:4])


def test_real_bair(video_data):
    aux, main = (bair(video_data, camera=camera) for camera in ("aux1", "main"))
    with np.load(video_data / "bair/bair_sample.npz") as file:
        assert np.array_equal(aux.read(0), file["aux1_image"]) and np.array_equal(main.read(0), file["image"])
    assert isinstance(aux, FileSource) and aux.num_frames(0) == 30
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=rf"its {split} side is empty .*data.split=all"):
            bair(video_data, split=split)
