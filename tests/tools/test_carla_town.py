"""CARLA Town01: FDM's files and its split, memory-mapped."""

import numpy as np
import pytest
import torch
from media import flat, names, save

from tools.sources import SOURCES


def carla(path, **options):
    return SOURCES.bind({"name": "CARLA", **options})(path)


def put(folder, number, frames=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    frames = torch.from_numpy(flat(number, t=5) if frames is None else frames)
    torch.save(frames, folder / f"video_{number}.pt", **options)


@pytest.fixture
def town(tmp_path):
    folder = tmp_path / "carla/no-traffic"
    for number in (2, 10, 11):
        put(folder, number)
    (folder / "coords_2.npy").write_bytes(b"")
    return folder


@pytest.mark.parametrize("given", ["", "carla", "carla/no-traffic"])
def test_found_in_the_order_of_their_numbers(town, tmp_path, given):
    source = carla(tmp_path / given)
    assert names(source) == ["video_2", "video_10", "video_11"] and [source.num_frames(i) for i in range(3)] == [5, 5, 5]
    assert np.array_equal(source.read(1, 1, 5, 2), flat(10, t=5)[1:5:2])
    with pytest.raises(ValueError, match="has 5 frames"):
        source.read(0, 0, 6)


def test_lists_tell_the_sides(town):
    (town / "video_train.csv").write_text(",path\n0,datasets/carla/no-traffic/video_10.pt\n1,x/video_99.pt\n")
    (town / "video_test.csv").write_text(",path\n2,video_2.pt\n")
    train, test = carla(town, split="train"), carla(town, split="test")
    assert names(train) == ["video_10"] and names(test) == ["video_2"] and len(carla(town)) == 3
    assert "1 of the 2 videos that video_train.csv names are absent" in train.notes[0] and test.notes == []


def test_without_lists_the_hundred_highest_numbers_are_the_test_side(tmp_path):
    for number in range(104):
        save(tmp_path / f"video_{number}.npy", flat(t=1))
    assert names(carla(tmp_path, split="train")) == ["video_0", "video_1", "video_2", "video_3"]
    assert names(carla(tmp_path, split="test")) == [f"video_{number}" for number in range(4, 104)]


def test_an_empty_side_names_the_way_out(town):
    assert len(carla(town, split="test")) == 3
    with pytest.raises(ValueError, match=r"none of its 3 videos is on the train side; use data.split=all"):
        carla(town, split="train")


def test_reading_a_window_leaves_the_rest_on_the_disk(town):
    file = town / "video_2.pt"
    data = file.read_bytes()
    at = data.index(flat(2, t=5)[4].tobytes())
    file.write_bytes(data[:at] + b"\7" * 16 + data[at + 16:])  # a checksum of the whole would tell
    assert np.array_equal(carla(town).read(0, 0, 4), flat(2, t=5)[:4])


def test_a_window_is_a_copy_that_may_be_written(town):
    source = carla(town)
    source.read(0)[:] = 0
    assert np.array_equal(source.read(0), flat(2, t=5))


def test_files_of_old_versions_of_torch_are_read(town):
    put(town, 2, _use_new_zipfile_serialization=False)
    source = carla(town)
    assert source.num_frames(0) == 5 and np.array_equal(source.read(0, 2), flat(2, t=5)[2:])


@pytest.mark.parametrize("content, what", [(torch.zeros(4, 4, 4, 3), r"torch.float32 \(4, 4, 4, 3\)"), ({"x": 1}, "dict"),
                                           (torch.zeros(4, 4, 3, dtype=torch.uint8), r"torch.uint8 \(4, 4, 3\)")])
def test_what_is_no_video_is_told(town, content, what):
    torch.save(content, town / "video_2.pt")
    with pytest.raises(ValueError, match=rf"video_2.pt: holds {what}; wanted a tensor uint8 t h w 3"):
        carla(town).read(0)


def test_a_file_that_is_cut_short_is_one_line(town):
    file = town / "video_2.pt"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"video_2.pt .* is damaged") as error:
        carla(town).num_frames(0)
    assert "\n" not in str(error.value)


def test_another_folder_is_not_taken(tmp_path):
    save(tmp_path / "train/a.npy", flat())
    with pytest.raises(ValueError, match=r"holds no CARLA video \(found train/; --data_path\); wanted no-traffic/video_0.pt"):
        carla(tmp_path)
