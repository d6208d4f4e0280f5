"""Videos are found in any tree, in natural order, under names that no two share, and read as they are."""

import pickle

import numpy as np
import pytest
from media import encode, flat, names, put, put_frames, save, still

from tools import tree
from tools.sources import SOURCES
from tools.tree import HDF5, FileSource, check_range, child, describe, find_videos, is_called, locate, natural, of_split
from tools.writers import write_gif, write_mp4


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def found(root, **options):
    return [path.relative_to(root).as_posix() for path in find_videos(root, **options)]


# --- what is found -------------------------------------------------------------------------------------------

def test_any_tree_in_natural_order(tmp_path):
    for name in ("b/clip10.npy", "b/clip9.npy", "a2.npy", "a10.npy", ".hidden/x.npy", "__MACOSX/y.npy"):
        put(tmp_path / name)
    put_frames(tmp_path / "c" / "walk")
    (tmp_path / "b" / "thumbnail.png").write_bytes(b"")
    (tmp_path / "readme.md").write_text("")
    assert names(SOURCES.bind("VIDEOS")(tmp_path)) == ["a2", "a10", "clip9", "clip10", "walk"]


def test_paths_are_ordered_folder_by_folder(tmp_path):
    paths = [tmp_path / name for name in ("1/2.mp4", "1/10.mp4", "2/1.mp4", "2-b/0.mp4", "10/1.mp4")]
    assert sorted(reversed(paths), key=natural) == paths


def test_suffixes_tell_what_is_a_video_in_any_case(tmp_path):
    touch(tmp_path, "a.mp4", "b.AVI", "c.Gif", "d.npz", "e.webm", "f.txt", "g.mp4.part", "h.json", "mp4", "._a.mp4")
    assert found(tmp_path) == ["a.mp4", "b.AVI", "c.Gif", "d.npz", "e.webm"]


def test_a_folder_of_images_is_one_video_but_not_beside_video_files(tmp_path):
    touch(tmp_path, "frames/1.PNG", "frames/2.jpg", "frames/masks/1.png", "clips/a.mp4", "clips/a.jpg", "none/x.txt")
    assert found(tmp_path) == ["clips/a.mp4", "frames", "frames/masks"]
    assert find_videos(tmp_path / "frames/masks") == [tmp_path / "frames/masks"]


def test_ignored_folders_are_passed_over_at_any_depth(tmp_path):
    touch(tmp_path, "lists/a.mp4", "b/lists/c.mp4", "b/d.mp4", "lists.mp4")
    assert found(tmp_path, ignore=["lists"]) == ["b/d.mp4", "lists.mp4"]


def test_a_single_file_is_found_if_it_is_of_a_known_kind(tmp_path):
    touch(tmp_path, "a.MP4", "b.png", "c.txt")
    assert [find_videos(tmp_path / name) for name in ("a.MP4", "b.png")] == [[tmp_path / "a.MP4"], [tmp_path / "b.png"]]
    assert find_videos(str(tmp_path / "c.txt")) == find_videos(tmp_path / "nothing") == []


def test_further_kinds_are_found_where_asked_for(tmp_path):
    touch(tmp_path, "a.h5", "b.HDF5", "c.mp4", "d/frame0.png", "d/e.h5")
    assert found(tmp_path) == ["c.mp4", "d"] and found(tmp_path, also=HDF5) == ["a.h5", "b.HDF5", "c.mp4", "d/e.h5"]
    assert find_videos(tmp_path / "a.h5", also=HDF5) == [tmp_path / "a.h5"] and find_videos(tmp_path / "a.h5") == []


def test_links_in_a_circle_end(tmp_path):
    put(tmp_path / "a/x.npy")
    (tmp_path / "a/back").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_videos(tmp_path)) == 1


def test_linked_folders_are_followed(tmp_path):
    put(tmp_path / "disk/x.npy")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert names(SOURCES.bind({"name": "VIDEOS", "split": "train"})(tmp_path / "set")) == ["x"]
    assert found(tmp_path / "set") == ["train/x.npy"]


def test_a_link_to_nothing_is_found_and_told_when_it_is_read(tmp_path):
    (tmp_path / "a.mp4").symlink_to(tmp_path / "gone.mp4")
    source = FileSource(find_videos(tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"a.mp4: no such video file"):
        source.num_frames(0)


# --- what is said of a folder --------------------------------------------------------------------------------

def test_a_folder_is_described_by_its_first_entries(tmp_path):
    assert describe(tmp_path / "x") == "no such folder" and describe(tmp_path) == "an empty folder"
    touch(tmp_path, "f10.txt", "f9.txt", "d/x")
    assert describe(tmp_path) == "found d/, f9.txt, f10.txt"
    assert describe(tmp_path, limit=1) == "found d/ and 2 more"
    assert describe(tmp_path / "f9.txt") == "a file of kind '.txt'"


def test_folders_are_known_by_name_whatever_its_spelling(tmp_path):
    for name in ("UCF-101", "data/ucf_101", "ucf1010", "h5/KTH64_h5", "h5/KTH_hdf5"):
        (tmp_path / name).mkdir(parents=True)
    touch(tmp_path, "files/ucf101", "h5/UCF101_64.hdf5", "h5/ucf101.mp4")
    assert is_called(tmp_path / "UCF-101", {"ucf101"}) and is_called(tmp_path / "data/ucf_101", {"sky", "ucf101"})
    for name, known in (("KTH64_h5", {"kth"}), ("KTH_hdf5", {"kth"}), ("UCF101_64.hdf5", {"ucf101"})):
        assert is_called(tmp_path / "h5" / name, known)
    for path in ("ucf1010", "files/ucf101", "nowhere/ucf101", "h5/ucf101.mp4"):  # another name, a file, nothing
        assert not is_called(tmp_path / path, {"ucf101"})
    assert child(tmp_path, {"ucf101"}) == tmp_path / "UCF-101" and child(tmp_path / "data", {"ucf101"}).name == "ucf_101"
    assert child(tmp_path / "files", {"ucf101"}) is None and child(tmp_path / "nowhere", {"ucf101"}) is None


def test_the_innermost_folder_of_a_name_is_located(tmp_path):
    touch(tmp_path, "zoo/Zoo/deeper/x", "animals/x")
    assert locate(tmp_path, {"zoo"}) == locate(tmp_path / "zoo", {"zoo"}) == tmp_path / "zoo/Zoo"
    assert locate(tmp_path, {"bank"}) == tmp_path


# --- names ---------------------------------------------------------------------------------------------------

def test_equal_names_are_told_apart(tmp_path):
    for name in ("x/a.npy", "y/a.npy", "y/b.npy"):
        put(tmp_path / name)
    assert names(SOURCES.bind("VIDEOS")(tmp_path)) == ["x_a", "y_a", "y_b"]
    np.savez(tmp_path / "y/b.npz", still())
    assert len(set(names(SOURCES.bind("VIDEOS")(tmp_path)))) == 4


@pytest.mark.parametrize("paths", [
    ["a.mp4", "a.avi", "a.frames.mp4"],           # stems
    ["x/y_z.npy", "x_y/z.npy", "z.npy"],          # folder and stem, joined
    ["a.mp4", "a.avi", "a_mp4.npy"],              # stem and suffix, joined
    ["x/a.npy", "x/a.npz", "x_a.npy", "y/a.npy"],
])
def test_no_two_videos_share_a_name(tmp_path, paths):
    touch(tmp_path, *paths)
    source = FileSource(find_videos(tmp_path), tmp_path)
    assert len(source) == len(paths) == len(set(names(source)))
    assert all("/" not in name for name in names(source))


def test_a_frame_folder_keeps_the_dots_of_its_name(tmp_path):
    put_frames(tmp_path / "take.1")
    put(tmp_path / "walk.2.npy")
    assert names(FileSource(find_videos(tmp_path), tmp_path)) == ["take.1", "walk.2"]


# --- reading -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_all_kinds_of_files_in_one_folder(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(tree, "_MEMORY", memory)
    frames = flat(t=9)
    write_mp4(tmp_path / "1.mp4", frames)
    encode(tmp_path / "2.avi", frames, "mjpeg", "yuvj444p")
    write_gif(tmp_path / "3.gif", frames)
    save(tmp_path / "4.npy", frames)
    np.savez(tmp_path / "5.npz", frames)
    put_frames(tmp_path / "6", frames)
    source = FileSource(find_videos(tmp_path), tmp_path, notes=["a remark"])
    assert names(source) == list("123456") and source.notes == ["a remark"]
    for i in range(6):
        assert source.num_frames(i) == 9
        for _ in range(2):  # from disk and, where there is memory for it, from there
            assert np.abs(source.read(i, 2, 9, 3).astype(int) - frames[2:9:3]).max() <= 4
            assert np.abs(source.read(i).astype(int) - frames).max() <= 4
        for window in ((-1, 2), (0, 10), (9, 9), (0, 3, 0)):
            with pytest.raises(ValueError, match="has 9 frames"):
                source.read(i, *window)


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


def test_each_video_has_an_equal_share_of_the_memory(tmp_path, monkeypatch):
    for name, length in (("long", 6), ("short", 5)):
        put_frames(tmp_path / name, still(length=length))
    source = FileSource(find_videos(tmp_path), tmp_path)
    monkeypatch.setattr(tree, "_MEMORY", 2 * still(length=5).nbytes)
    for i in range(2):
        source.read(i, 0, 1)
    assert list(source._kept) == [(1, None)]


def test_what_is_mapped_already_is_not_kept(tmp_path):
    put(tmp_path / "a.npy")
    source = FileSource(find_videos(tmp_path), tmp_path)
    assert (source.read(0) == source.read(0)).all() and source._kept == {}


def test_damaged_and_empty_files_are_told_one_by_one(tmp_path):
    put(tmp_path / "0.npy", 7)
    for name in ("1.mp4", "2.avi", "3.gif", "4.npy", "5.npz"):
        touch(tmp_path, name)
    touch(tmp_path, "6/frame0.png")
    source = FileSource(find_videos(tmp_path), tmp_path)
    assert len(source) == 7 and (source.read(0) == 7).all()
    for i in range(1, 7):
        with pytest.raises(ValueError, match=rf"{source.paths[i]}.*damaged.*data.on_error=skip") as error:
            source.read(i)
        assert "\n" not in str(error.value)


def test_a_video_that_is_damaged_further_on_stays_readable(video_data):
    source = SOURCES.bind("VIDEOS")(video_data / "damaged" / "decord_corrupted.mp4")
    assert np.array_equal(source.read(0, 0, 4), source.read(0, 0, 4))
    with pytest.raises(ValueError, match="damaged"):
        source.read(0, 20, 40)


def test_a_frame_that_is_damaged_further_on_leaves_the_others_readable(tmp_path):
    frames = flat(t=6)
    put_frames(tmp_path / "walk", frames)
    (tmp_path / "walk/frame4.png").write_bytes((tmp_path / "walk/frame4.png").read_bytes()[:60])
    source = FileSource(find_videos(tmp_path), tmp_path)
    for _ in range(2):
        assert np.array_equal(source.read(0, 0, 4), frames[:4]) and np.array_equal(source.read(0, 5), frames[5:])
    with pytest.raises(ValueError, match=r"frame4.png: damaged image"):
        source.read(0, 3, 5)


# --- helpers of other sources --------------------------------------------------------------------------------

def test_a_range_beyond_the_video_is_refused():
    assert check_range("a", 9, 2, None, 3) == range(2, 9, 3)
    for window in ((-1, 2, 1), (0, 10, 1), (9, 9, 1), (0, 3, 0)):
        with pytest.raises(ValueError, match=r"a: has 9 frames, got start="):
            check_range("a", 9, *window)


def test_a_side_is_what_its_names_tell(tmp_path):
    def side(n):
        return {0: "train", 1: "test"}.get(n)

    assert of_split([0, 1, 2, 0], "train", side, tmp_path) == [0, 0] and of_split([0, 1, 2], "all", side, tmp_path) == [0, 1, 2]
    with pytest.raises(ValueError, match=rf"{tmp_path}: none of its 2 videos is on the test side; use data.split=all"):
        of_split([0, 2], "test", side, tmp_path)


def test_labels_are_numbers_of_the_classes(tmp_path):
    for name in ("a", "b", "c"):
        put(tmp_path / f"{name}.npy")
    paths = find_videos(tmp_path)
    assert [FileSource(paths, tmp_path).label(i) for i in range(3)] == [None] * 3
    source = FileSource(paths, tmp_path, labels=["run2", "run10", "run2"])
    assert source.classes == ("run2", "run10") and [source.label(i) for i in range(3)] == [0, 1, 0]
    source = FileSource(paths, tmp_path, labels=["run", "walk", "fly"], classes=["walk", "run"])
    assert [source.label(i) for i in range(3)] == [1, 0, None]


def test_naming_video_files_does_not_ask_the_disk(tmp_path, monkeypatch):
    paths = [tmp_path / f"{folder}/{name}" for folder in "xy" for name in ("a.mp4", "b.AVI", "c.npz")]
    monkeypatch.setattr(type(tmp_path), "is_dir", lambda self: pytest.fail("the disk was asked"))
    assert tree.video_names(paths, tmp_path) == ["x_a", "x_b", "x_c", "y_a", "y_b", "y_c"]
