"""BAIR out of TFRecord files."""

import io

import numpy as np
import pytest
from PIL import Image
from records import example, trajectory, write_records

from tools.raw import open_raw


def test_trajectories_of_both_sides(tmp_path):
    (first, aux1, _), (second, other, _), (third, _, _) = (trajectory(seed) for seed in range(3))
    write_records(tmp_path / "softmotion30_44k/train/traj_0_to_255.tfrecords", [first, second])
    write_records(tmp_path / "softmotion30_44k/test/traj_0_to_255.tfrecords", [third])
    raw = open_raw("BAIR", tmp_path)
    videos = [raw.video(i) for i in range(len(raw))]
    assert [v.sides for v in videos] == [("test",), ("train",), ("train",)] and len({v.name for v in videos}) == 3
    assert videos[2].origin == "softmotion30_44k/train/traj_0_to_255.tfrecords#1"
    assert [raw.num_frames(i) for i in range(3)] == [20, 20, 20]
    np.testing.assert_array_equal(raw.read(1, 0, 20), aux1)
    np.testing.assert_array_equal(raw.read(2, 5, 9), other[5:9])


def test_the_other_camera(tmp_path):
    record, _, main = trajectory(0, frames=3)
    path = write_records(tmp_path / "train/a.tfrecords", [record])
    np.testing.assert_array_equal(open_raw("BAIR", path, {"camera": "main"}).read(0, 0, 3), main)
    with pytest.raises(ValueError, match="camera must be one of aux1, main, got left"):
        open_raw("BAIR", path, {"camera": "left"})


def test_frames_that_are_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    write_records(tmp_path / "a.tfrecords", [example({"0/image_aux1/encoded": file.getvalue()})])
    np.testing.assert_array_equal(open_raw("BAIR", tmp_path).read(0, 0, 1)[0], picture)


def test_damage_costs_what_is_damaged(tmp_path):
    record, aux1, _ = trajectory(0, frames=2)
    path = write_records(tmp_path / "a.tfrecords", [record] * 3)
    data = bytearray(path.read_bytes())
    data[12 + 500] ^= 1                        # a pixel of the first
    data[2 * (len(record) + 16) + 2] ^= 1      # the length of the third
    path.write_bytes(data)
    raw = open_raw("BAIR", tmp_path)
    assert len(raw) == 3
    with pytest.raises(ValueError, match="wrong checksum"):
        raw.read(0, 0, 1)
    np.testing.assert_array_equal(raw.read(1, 0, 2), aux1)
    with pytest.raises(ValueError, match="record 2 is damaged"):
        raw.num_frames(2)


@pytest.mark.parametrize("features, why", [({"0/image_main/encoded": b"x"}, "holds 0 frames of image_aux1"),
                                           ({"1/image_aux1/encoded": b"x"}, "with gaps")])
def test_records_without_the_frames_are_damaged(tmp_path, features, why):
    write_records(tmp_path / "a.tfrecords", [example(features)])
    with pytest.raises(ValueError, match=why):
        open_raw("BAIR", tmp_path).num_frames(0)
