"""Every source is in bounds and deterministic; every layout that people have is found, or the error says why."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import tree
from tools.sources import SOURCES
from tools.tree import find_videos
from tools.video import write_mp4, write_png

# where the contract tests find a registered source in the folder of real videos
PLACES = {"UCF101": "ucf101/UCF-101", "SKY": "SkyTimelapse", "VIDEOS": "videos", "SHAPES": ""}


def tiny(value=0, length=3):
    return np.full((length, 8, 8, 3), value, np.uint8)


def put(path, value=0, length=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, tiny(value, length))


def put_frames(folder, value=0, length=3):
    for number in range(length):
        write_png(folder / f"frame{number:05d}.png", tiny(value, 1)[0])


def names(source):
    return [source.name(i) for i in range(len(source))]


# --- the contract --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_keeps_the_contract(video_data, name):
    source, again = (SOURCES.bind({"name": name})(str(video_data / PLACES[name])) for _ in range(2))
    assert len(source) > 0 and isinstance(source.notes, list)
    assert len(set(names(source))) == len(source) and names(source) == names(again)
    for i in {0, len(source) - 1}:
        n = source.num_frames(i)
        frames = source.read(i, n - min(n, 5), n, 2)
        assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
        assert len(frames) == len(range(n - min(n, 5), n, 2))
        assert np.array_equal(frames, again.read(i, n - min(n, 5), n, 2))
        for start, stop in ((-1, 2), (0, n + 1), (n, n + 1)):
            with pytest.raises(ValueError, match=f"{n} frames"):
                source.read(i, start, stop)


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_refuses_unknown_splits_and_options(tmp_path, name):
    with pytest.raises(ValueError, match=r"data.split must be one of train, test, all, got \"val\""):
        SOURCES.bind({"name": name, "split": "val"})(str(tmp_path))
    with pytest.raises(ValueError, match="split"):
        SOURCES.bind({"name": name, "splt": "train"})


@pytest.mark.parametrize("name", ["UCF101", "SKY", "VIDEOS"])
def test_missing_and_empty_folders_tell_the_layout(tmp_path, name):
    for path, found in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "an empty folder")):
        with pytest.raises(ValueError, match=found) as error:
            SOURCES.bind(name)(str(path))
        assert str(path) in str(error.value) and "--data_path" in str(error.value) and "wanted" in str(error.value)


def test_small_sets_are_decoded_once_and_read_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(3):
        write_mp4(tmp_path / f"{number}.mp4", rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8))
    small = SOURCES.bind("VIDEOS")(tmp_path)
    monkeypatch.setattr(tree, "_MEMORY", 0)
    large = SOURCES.bind("VIDEOS")(tmp_path)
    wanted = [large.read(i, 1, 8, 3) for i in range(3)]
    monkeypatch.undo()
    for _ in range(2):
        for i in range(3):
            small.read(i, 1, 8, 3)[:] = 0  # a copy
            assert np.array_equal(small.read(i, 1, 8, 3), wanted[i])
    monkeypatch.setattr(tree, "read_video", None)  # nothing is read from disk any more
    assert np.array_equal(small.read(2, 1, 8, 3), wanted[2])
    assert pickle.loads(pickle.dumps(small))._kept == {} and large._kept == {}


def test_a_video_that_is_damaged_further_on_stays_readable(video_data):
    source = SOURCES.bind("VIDEOS")(video_data / "damaged" / "decord_corrupted.mp4")
    assert np.array_equal(source.read(0, 0, 4), source.read(0, 0, 4))
    with pytest.raises(ValueError, match="damaged"):
        source.read(0, 20, 40)


# --- VIDEOS --------------------------------------------------------------------------------------------------

def test_any_tree_in_natural_order(tmp_path):
    for name in ("b/clip10.npy", "b/clip9.npy", "a2.npy", "a10.npy", ".hidden/x.npy", "__MACOSX/y.npy"):
        put(tmp_path / name)
    put_frames(tmp_path / "c" / "walk")
    (tmp_path / "b" / "thumbnail.png").write_bytes(b"")
    (tmp_path / "readme.md").write_text("")
    assert names(SOURCES.bind("VIDEOS")(tmp_path)) == ["a2", "a10", "clip9", "clip10", "walk"]


def test_a_frame_folder_or_a_file_is_one_video(tmp_path):
    put_frames(tmp_path / "walk", length=4)
    source = SOURCES.bind("VIDEOS")(tmp_path / "walk")
    assert names(source) == ["walk"] and source.num_frames(0) == 4
    put(tmp_path / "run.npy")
    assert names(SOURCES.bind("VIDEOS")(str(tmp_path / "run.npy"))) == ["run"]


def test_sides(tmp_path):
    put(tmp_path / "train/a.npy", 1)
    put(tmp_path / "val/b.npy", 2)
    bind = SOURCES.bind
    assert names(bind({"name": "VIDEOS", "split": "train"})(tmp_path)) == ["a"]
    assert names(bind({"name": "VIDEOS", "split": "test"})(tmp_path)) == ["b"]
    assert names(bind("VIDEOS")(tmp_path)) == ["a", "b"]
    shutil.move(tmp_path / "val", tmp_path / "test")
    assert names(bind({"name": "VIDEOS", "split": "test"})(tmp_path)) == ["b"]


def test_a_folder_without_sides_trains_on_everything_and_says_so(tmp_path):
    put(tmp_path / "a.npy")
    source = SOURCES.bind({"name": "VIDEOS", "split": "train"})(tmp_path)
    assert names(source) == ["a"] and "no subfolders train and test" in source.notes[0]
    with pytest.raises(ValueError, match=r"test side is empty .*data.split=all"):
        SOURCES.bind({"name": "VIDEOS", "split": "test"})(tmp_path)


@pytest.mark.parametrize("there, asked", [("train", "test"), ("test", "train")])
def test_an_empty_side_names_the_way_out(tmp_path, there, asked):
    put(tmp_path / there / "a.npy")
    for empty in (False, True):
        if empty:
            (tmp_path / asked).mkdir()
        with pytest.raises(ValueError, match=rf"{asked} side is empty .*data.split=all"):
            SOURCES.bind({"name": "VIDEOS", "split": asked})(tmp_path)


def test_equal_names_are_told_apart(tmp_path):
    for name in ("x/a.npy", "y/a.npy", "y/b.npy"):
        put(tmp_path / name)
    assert names(SOURCES.bind("VIDEOS")(tmp_path)) == ["x_a", "y_a", "y_b"]
    np.savez(tmp_path / "y/b.npz", tiny())
    assert len(set(names(SOURCES.bind("VIDEOS")(tmp_path)))) == 4


def test_links_in_a_circle_end(tmp_path):
    put(tmp_path / "a/x.npy")
    (tmp_path / "a/back").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_videos(tmp_path)) == 1


def test_linked_folders_are_followed(tmp_path):
    put(tmp_path / "disk/x.npy")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert names(SOURCES.bind({"name": "VIDEOS", "split": "train"})(tmp_path / "set")) == ["x"]


# --- SKY -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("below", ["", "long/"])
@pytest.mark.parametrize("given", ["", "SkyTimelapse", "sky_timelapse"])
def test_sky_flat_and_nested_by_itself_or_its_parent(tmp_path, below, given):
    root = tmp_path / (given or "SkyTimelapse")
    for side, count in (("train", 3), ("val", 2)):
        for number in range(count):
            put_frames(root / side / f"{below}video{number + 8}")
    for split, wanted in (("train", ["video8", "video9", "video10"]), ("test", ["video8", "video9"])):
        source = SOURCES.bind({"name": "SKY", "split": split})(tmp_path if given else root)
        assert names(source) == wanted


def test_sky_of_single_files(tmp_path):
    put(tmp_path / "train/a.npy")
    put(tmp_path / "val/b.npy")
    assert names(SOURCES.bind({"name": "SKY", "split": "test"})(tmp_path)) == ["b"]


def test_sky_does_not_take_another_dataset(tmp_path):
    put(tmp_path / "other/a.npy")
    with pytest.raises(ValueError, match="neither a train nor a val folder"):
        SOURCES.bind("SKY")(tmp_path)


def test_real_sky(video_data):
    for split, count in (("train", 40), ("test", 8), ("all", 48)):
        for path in (video_data / "SkyTimelapse", video_data):
            source = SOURCES.bind({"name": "SKY", "split": split})(path)
            assert len(source) == count and source.num_frames(0) == 32
    assert source.read(0, 0, 2).shape == (2, 128, 128, 3)


# --- UCF-101 -------------------------------------------------------------------------------------------------

@pytest.fixture
def ucf(tmp_path):
    root = tmp_path / "UCF-101"
    for name in ("Archery/v_Archery_g01_c01", "Archery/v_Archery_g02_c01", "Biking/v_Biking_g01_c01"):
        put(root / f"{name}.npy")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g02_c01.avi 1\nArchery/v_Archery_g03_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\r\nBiking/v_Biking_g01_c01.avi\r\n\r\n")
    (lists / "trainlist02.txt").write_text("Biking/v_Biking_g09_c01.avi 2\n")
    return root


def ucf101(path, **options):
    return SOURCES.bind({"name": "UCF101", **options})(path)


def test_ucf_lists_choose_the_side(ucf):
    assert names(ucf101(ucf, split="train")) == ["v_Archery_g02_c01"]
    assert names(ucf101(ucf, split="test")) == ["v_Archery_g01_c01", "v_Biking_g01_c01"]
    assert len(ucf101(ucf)) == 3


def test_ucf_absent_videos_are_counted(ucf):
    assert ucf101(ucf, split="test").notes == []
    assert "1 of the 2 videos that trainlist01.txt names are absent" in ucf101(ucf, split="train").notes[0]


def test_ucf_by_parent_and_with_lists_beside(ucf):
    (ucf / "ucfTrainTestlist").rename(ucf.parent / "ucfTrainTestlist")
    for path in (ucf, ucf.parent):
        assert names(ucf101(path, split="train")) == ["v_Archery_g02_c01"]


def test_ucf_in_a_folder_of_its_own_name(ucf):
    (ucf.parent / "data" / "ucf101").mkdir(parents=True)
    shutil.move(ucf, ucf.parent / "data" / "ucf101" / "UCF-101")
    assert len(ucf101(ucf.parent / "data")) == 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_ucf_without_lists_takes_all_and_says_so(ucf, split):
    shutil.rmtree(ucf / "ucfTrainTestlist")
    source = ucf101(ucf, split=split)
    assert len(source) == 3 and "no ucfTrainTestlist" in source.notes[0]


def test_ucf_empty_side_names_the_way_out(ucf):
    with pytest.raises(ValueError, match=r"on the train side of fold 2; use data.split=all"):
        ucf101(ucf, split="train", fold=2)
    with pytest.raises(ValueError, match=r"testlist03.txt: no such split list"):
        ucf101(ucf, split="test", fold=3)
    with pytest.raises(ValueError, match=r"data.fold must be 1, 2 or 3, got 4"):
        ucf101(ucf, fold=4)


def test_ucf_does_not_take_another_dataset(tmp_path):
    put(tmp_path / "somewhere/train/a.npy")
    with pytest.raises(ValueError, match="holds no UCF-101 video"):
        ucf101(tmp_path / "somewhere")


def test_real_ucf(video_data):
    for path in (video_data / "ucf101/UCF-101", video_data / "ucf101", video_data):
        source = ucf101(path, split="test")
        assert len(source) == 4 and "3779 of the 3783" in source.notes[0]
        assert [source.num_frames(i) for i in range(4)] == [164, 107, 201, 108]
        assert len(ucf101(path, split="train", fold=2)) == 4
        with pytest.raises(ValueError, match=r"data.split=all"):
            ucf101(path, split="train")


@pytest.mark.parametrize("module", ["sources", "folder", "ucf101", "shapes", "tree"])
def test_any_module_may_be_imported_first(module):
    code = f"import tools.{module}; from tools.sources import SOURCES; assert 'UCF101' in SOURCES and 'SHAPES' in SOURCES"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
