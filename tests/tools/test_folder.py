"""Folders with sides: any folder of videos, and SkyTimelapse, CLEVRER and Kinetics in every layout in which they are found."""

import shutil

import numpy as np
import pytest
from media import encode, flat, names, put, put_frames, still
from shards import put_shard

from tools.sources import SOURCES
from tools.writers import write_gif, write_mp4


def videos(path, **options):
    return SOURCES.bind({"name": "VIDEOS", **options})(path)


def sky(path, **options):
    return SOURCES.bind({"name": "SKY", **options})(path)


# --- VIDEOS --------------------------------------------------------------------------------------------------

def test_a_frame_folder_or_a_file_is_one_video(tmp_path):
    put_frames(tmp_path / "walk", still(length=4))
    source = videos(tmp_path / "walk")
    assert names(source) == ["walk"] and source.num_frames(0) == 4
    put(tmp_path / "run.npy")
    assert names(videos(str(tmp_path / "run.npy"))) == ["run"]


def test_sides(tmp_path):
    put(tmp_path / "train/a.npy", 1)
    put(tmp_path / "val/b.npy", 2)
    assert names(videos(tmp_path, split="train")) == ["a"]
    assert names(videos(tmp_path, split="test")) == ["b"]
    assert names(videos(tmp_path)) == ["a", "b"]
    shutil.move(tmp_path / "val", tmp_path / "test")
    assert names(videos(tmp_path, split="test")) == ["b"]


def test_a_folder_without_sides_trains_on_everything_and_says_so(tmp_path):
    put(tmp_path / "a.npy")
    source = videos(tmp_path, split="train")
    assert names(source) == ["a"] and "no subfolders train and test" in source.notes[0]
    with pytest.raises(ValueError, match=r"test side is empty .*data.split=all"):
        videos(tmp_path, split="test")


@pytest.mark.parametrize("there, asked", [("train", "test"), ("test", "train")])
def test_an_empty_side_names_the_way_out(tmp_path, there, asked):
    put(tmp_path / there / "a.npy")
    for empty in (False, True):
        if empty:
            (tmp_path / asked).mkdir()
        with pytest.raises(ValueError, match=rf"{asked} side is empty .*data.split=all"):
            videos(tmp_path, split=asked)


@pytest.mark.parametrize("train, test", [("training", "testing"), ("train", "valid"), ("sky_train", "validation")])
def test_sides_have_several_names(tmp_path, train, test):
    put(tmp_path / train / "a.npy")
    put(tmp_path / test / "b.npy")
    assert names(videos(tmp_path, split="train")) == ["a"] and names(videos(tmp_path, split="test")) == ["b"]
    assert sorted(names(videos(tmp_path))) == ["a", "b"]


def test_a_test_folder_comes_before_a_val_folder(tmp_path):
    for side in ("train", "val", "test"):
        put(tmp_path / side / f"{side}.npy")
    assert names(videos(tmp_path, split="test")) == ["test"] and len(videos(tmp_path)) == 3


def test_videos_beside_the_sides_belong_to_none(tmp_path):
    put(tmp_path / "train/a.npy")
    put(tmp_path / "test/b.npy")
    put(tmp_path / "c.npy")
    assert names(videos(tmp_path, split="train")) == ["a"] and len(videos(tmp_path)) == 3


def test_real_formats_lie_side_by_side_in_natural_order(tmp_path):
    frames = flat(t=7)
    write_mp4(tmp_path / "train/clip10.mp4", frames)
    encode(tmp_path / "train/clip9.avi", frames, "mpeg4")
    write_gif(tmp_path / "train/clip1.gif", frames)
    put_frames(tmp_path / "train/clip2", frames)
    source = videos(str(tmp_path), split="train")
    assert names(source) == ["clip1", "clip2", "clip9", "clip10"] and source.notes == []
    for i in range(4):
        assert source.num_frames(i) == 7 and np.abs(source.read(i, 1, 7, 2).astype(int) - frames[1:7:2]).max() <= 12


def test_a_damaged_video_is_found_but_cannot_be_read(tmp_path):
    write_mp4(tmp_path / "a.mp4", flat())
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:-400])
    source = videos(tmp_path)
    assert names(source) == ["a", "b"] and source.read(0).shape == (4, 16, 24, 3)
    with pytest.raises(ValueError, match=r"b.mp4: damaged or not a video \(.*bytes\)"):
        source.num_frames(1)


def test_a_folder_without_videos_tells_what_it_found(tmp_path):
    (tmp_path / "readme.md").write_text("")
    for path, what in ((tmp_path, "found readme.md"), (tmp_path / "readme.md", "a file of kind '.md'")):
        with pytest.raises(ValueError, match=f"{path}: holds no video .{what}; --data_path.; wanted a folder of videos"):
            videos(path)


# --- SKY -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("below", ["", "long/"])
@pytest.mark.parametrize("given", ["", "SkyTimelapse", "sky_timelapse"])
def test_sky_flat_and_nested_by_itself_or_its_parent(tmp_path, below, given):
    root = tmp_path / (given or "SkyTimelapse")
    for side, count in (("train", 3), ("val", 2)):
        for number in range(count):
            put_frames(root / side / f"{below}video{number + 8}")
    for split, wanted in (("train", ["video8", "video9", "video10"]), ("test", ["video8", "video9"])):
        source = sky(tmp_path if given else root, split=split)
        assert names(source) == wanted


def test_sky_of_single_files(tmp_path):
    put(tmp_path / "train/a.npy")
    put(tmp_path / "val/b.npy")
    assert names(sky(tmp_path, split="test")) == ["b"]


def test_sky_does_not_take_another_dataset(tmp_path):
    put(tmp_path / "other/a.npy")
    with pytest.raises(ValueError, match="neither a train nor a val folder"):
        sky(tmp_path)


def test_real_sky(video_data):
    for split, count in (("train", 40), ("test", 8), ("all", 48)):
        for path in (video_data / "SkyTimelapse", video_data):
            source = sky(path, split=split)
            assert len(source) == count and source.num_frames(0) == 32
    assert source.read(0, 0, 2).shape == (2, 128, 128, 3)


def test_sky_as_its_archive_is_unpacked(tmp_path):
    for side, clips in (("sky_train", ("07U1fSrk9oI_1", "07U1fSrk9oI_10", "07U1fSrk9oI_2")), ("sky_test", ("9e9gTvkyFjU_1",))):
        for clip in clips:
            put_frames(tmp_path / "sky_timelapse" / side / clip.rsplit("_", 1)[0] / clip)
    assert names(sky(tmp_path, split="train")) == ["07U1fSrk9oI_1", "07U1fSrk9oI_2", "07U1fSrk9oI_10"]
    assert names(sky(tmp_path / "sky_timelapse", split="test")) == ["9e9gTvkyFjU_1"] and len(sky(tmp_path)) == 4


def test_sky_reads_its_frames_in_natural_order(tmp_path):
    frames = flat(t=12)
    put_frames(tmp_path / "SkyTimelapse/train/a", frames)  # frame10.png sorts before frame2.png as text
    assert np.array_equal(sky(tmp_path, split="train").read(0), frames)


def test_a_sky_without_its_test_side_names_the_way_out(tmp_path):
    put_frames(tmp_path / "train/a")
    with pytest.raises(ValueError, match=r"its test side is empty .found train/.; use data.split=all"):
        sky(tmp_path, split="test")


# --- CLEVRER -------------------------------------------------------------------------------------------------

def clevrer(path, **options):
    return SOURCES.bind({"name": "CLEVRER", **options})(path)


def put_clevrer(root, layout):
    """Four videos: one of each official side, and another of train."""
    for number, side in ((0, "train"), (9999, "train"), (10000, "validation"), (15000, "test")):
        name = f"video_{number:05d}"
        short = {"validation": "val"}.get(side, side)
        if layout == "frames":
            put_frames(root / short / name)
        else:
            folder = {"original": f"video_{side}/video_{number // 1000 * 1000:05d}", "short": short, "flat": ""}[layout]
            put(root / folder / f"{name}.npy")


@pytest.mark.parametrize("layout", ["original", "short", "frames", "flat"])
def test_clevrer_in_each_layout(tmp_path, layout):
    put_clevrer(tmp_path / "CLEVRER", layout)
    for path in (tmp_path, tmp_path / "CLEVRER"):
        assert names(clevrer(path, split="train")) == ["video_00000", "video_09999"]
        assert names(clevrer(path, split="test")) == ["video_15000"] and len(clevrer(path)) == 4


def test_clevrers_validation_side_stands_in_for_an_absent_test_side(tmp_path):
    put_clevrer(tmp_path, "short")
    shutil.rmtree(tmp_path / "test")
    assert names(clevrer(tmp_path, split="test")) == ["video_10000"]


def test_clevrer_does_not_take_another_dataset(tmp_path):
    put(tmp_path / "train/a.npy")
    with pytest.raises(ValueError, match=r"holds no video of this set .found train/.*wanted CLEVRER/"):
        clevrer(tmp_path)


# --- Kinetics ------------------------------------------------------------------------------------------------

def kinetics(path, **options):
    return SOURCES.bind({"name": "KINETICS", **options})(path)


@pytest.mark.parametrize("folder", ["kinetics600", "Kinetics-400", "k700"])
def test_kinetics_keeps_its_classes(tmp_path, folder):
    root = tmp_path / folder
    for path in ("train/archery/a", "train/zumba/b", "val/zumba/c", "val/abseiling/d"):
        put(root / f"{path}.npy")
    for path in (tmp_path, root):
        train, test, all_ = (kinetics(path, split=split) for split in ("train", "test", "all"))
        assert train.classes == test.classes == all_.classes == ("abseiling", "archery", "zumba")
        assert [(train.name(i), train.label(i)) for i in range(2)] == [("a", 1), ("b", 2)]
        assert [(test.name(i), test.label(i)) for i in range(2)] == [("d", 0), ("c", 2)]
        assert {all_.name(i): all_.label(i) for i in range(4)} == {"a": 1, "b": 2, "c": 2, "d": 0}


def test_kinetics_without_class_folders_has_no_labels(tmp_path):
    put(tmp_path / "train/a.npy")
    source = kinetics(tmp_path, split="train")
    assert source.label(0) is None and source.classes == ()
    with pytest.raises(ValueError, match="its test side is empty"):
        kinetics(tmp_path, split="test")


def test_kinetics_of_mcvds_shards(tmp_path):
    put_shard(tmp_path / "Kinetics600_h5/train/shard_0001.hdf5", [still()] * 2, target=[5, -1])
    source = kinetics(tmp_path, split="train")
    assert [source.label(i) for i in range(2)] == [5, None]
