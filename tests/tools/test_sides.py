"""A dataset's folder and its sides are found under any of their names, and what is not there is told."""

from pathlib import Path

import pytest
from media import put, put_frames
from shards import put_shard

from tools.sides import Layout, find_sided

LAYOUT = Layout(("zoo", "animals"), wanted="wanted zoo/train")
NUMBERED = Layout(("zoo",), wanted="wanted zoo/a1.npy", ours=lambda path: path.stem[0] == "a",
                  side_of=lambda path: {"1": "train", "2": "test"}.get(path.stem[1:2]))


def found(path, split="all", layout=LAYOUT):
    result = find_sided(Path(path), split, layout)
    return [p.relative_to(result.root).as_posix() for p in result.paths]


@pytest.mark.parametrize("given", ["", "zoo", "zoo/Animals"])
def test_a_folder_within_a_folder_of_its_name(tmp_path, given):
    put(tmp_path / "zoo/Animals/train/x.npy")
    put_frames(tmp_path / "zoo/Animals/val/y")
    put_shard(tmp_path / "zoo/Animals/val/z.h5", [])
    assert found(tmp_path / given, "train") == ["train/x.npy"]
    assert found(tmp_path / given, "test") == ["val/y", "val/z.h5"] and len(found(tmp_path / given)) == 3


def test_a_folder_of_any_name_is_taken_for_its_sides(tmp_path):
    put(tmp_path / "train/x.npy")
    assert found(tmp_path, "train") == ["train/x.npy"]


def test_a_folder_with_sides_is_not_left_for_one_within_it(tmp_path):
    put(tmp_path / "train/x.npy")
    put(tmp_path / "zoo/train/y.npy")
    assert found(tmp_path, "train") == ["train/x.npy"]


def test_a_folder_of_the_name_is_taken_without_sides(tmp_path):
    put(tmp_path / "zoo/x.npy")
    assert found(tmp_path) == ["x.npy"]
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=rf"zoo: its {split} side is empty \(found x.npy\); use data.split=all"):
            found(tmp_path, split)


def test_a_folder_of_neither_name_nor_sides_is_another_dataset(tmp_path):
    put(tmp_path / "other/x.npy")
    with pytest.raises(ValueError, match=r"neither a train nor a val folder \(found other/; --data_path\); wanted zoo/train"):
        found(tmp_path)


def test_names_tell_the_side_where_folders_do_not(tmp_path):
    for name in ("a1.npy", "a2.npy", "a3.npy"):
        put(tmp_path / name)
    assert found(tmp_path, "train", NUMBERED) == ["a1.npy"] and found(tmp_path, "test", NUMBERED) == ["a2.npy"]
    assert len(found(tmp_path, "all", NUMBERED)) == 3


def test_folders_tell_the_side_before_names_do(tmp_path):
    put(tmp_path / "test/a1.npy")
    put(tmp_path / "train/a2.npy")
    assert found(tmp_path, "train", NUMBERED) == ["train/a2.npy"]


def test_videos_of_other_names_are_another_dataset(tmp_path):
    put(tmp_path / "train/b.npy")
    with pytest.raises(ValueError, match="holds no video of this set"):
        found(tmp_path, "train", NUMBERED)
    put(tmp_path / "zoo/train/b.npy")  # unless the folder says so
    assert found(tmp_path / "zoo", "train", NUMBERED) == ["train/b.npy"]


def test_what_is_missing_is_told(tmp_path):
    for path, what in ((tmp_path / "no", "no such folder"), (tmp_path, "an empty folder")):
        with pytest.raises(ValueError, match=rf"{path}: .*{what}.*--data_path.*; wanted zoo/train"):
            found(path)
    with pytest.raises(ValueError, match=r"data.split must be"):
        found(tmp_path, "val")
