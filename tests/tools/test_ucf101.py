"""UCF-101 is found wherever it was unpacked; its lists choose the side, and what they name in vain is counted."""

import shutil

import numpy as np
import pytest
from media import encode, flat, names, put, put_frames
from shards import put_shard

from tools.sources import SOURCES


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
    assert names(ucf101(ucf.parent / "data", split="train")) == ["v_Archery_g02_c01"]


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


@pytest.fixture
def original(tmp_path):
    """Three videos as they are distributed, and lists of five."""
    root = tmp_path / "UCF-101"
    for number, name in enumerate(("Archery/v_Archery_g08_c01", "Archery/v_Archery_g10_c02", "Biking/v_Biking_g09_c01")):
        encode(root / f"{name}.avi", flat(number, t=10), "mpeg4")
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\nArchery/v_Archery_g10_c02.avi 1\n"
                                           "Archery/v_Archery_g10_c03.avi 1\nBiking/v_Biking_g25_c07.avi 2\n")
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g09_c01.avi\n")
    return root


def test_ucf_as_it_is_distributed(original):
    for path in (original, original.parent, str(original)):
        train, test = (ucf101(path, split=split) for split in ("train", "test"))
        assert names(train) == ["v_Archery_g08_c01", "v_Archery_g10_c02"] and names(test) == ["v_Biking_g09_c01"]
        assert "2 of the 4 videos that trainlist01.txt names are absent" in train.notes[0] and test.notes == []
        assert test.num_frames(0) == 10
        assert np.abs(test.read(0, 4, 10, 5).astype(int) - flat(2, t=10)[4:10:5]).max() <= 12


def test_ucf_lists_and_files_may_differ_in_case_and_suffix(original):
    # the lists say HandstandPushups where the archive says HandStandPushups
    (original / "Archery/v_Archery_g08_c01.avi").rename(original / "Archery/v_ArcherY_g08_c01.AVI")
    (original / "Archery/v_Archery_g10_c02.avi").unlink()
    put_frames(original / "Archery/v_Archery_g10_c02")
    assert names(ucf101(original, split="train")) == ["v_ArcherY_g08_c01", "v_Archery_g10_c02"]


def test_ucf_counts_a_video_once_that_is_there_in_two_formats(original):
    put(original / "Archery/v_Archery_g08_c01.npy")
    put(original / "Archery/v_Archery_g10_c02.npy")
    source = ucf101(original, split="train")
    assert len(source) == len(set(names(source))) == 4
    assert "2 of the 4 videos" in source.notes[0]


def test_ucf_of_all_needs_no_list_and_is_in_natural_order(original):
    shutil.rmtree(original.parent / "ucfTrainTestlist")
    encode(original / "Archery/v_Archery_g9_c01.avi", flat(), "mpeg4")
    source = ucf101(original)
    assert names(source) == ["v_Archery_g08_c01", "v_Archery_g9_c01", "v_Archery_g10_c02", "v_Biking_g09_c01"]
    assert source.notes == []


def test_ucf_lists_inside_come_before_those_beside(original):
    inside = original / "ucfTrainTestlist"
    inside.mkdir()
    (inside / "testlist01.txt").write_text("Archery/v_Archery_g10_c02.avi\n")
    assert names(ucf101(original, split="test")) == ["v_Archery_g10_c02"]


def test_ucf_under_any_name_is_known_by_its_files(original):
    other = original.rename(original.parent / "actions")
    assert len(ucf101(other)) == 3


def test_ucf_damaged_video_is_one_line(original):
    path = original / "Biking/v_Biking_g09_c01.avi"
    for content in (b"", path.read_bytes()[:3000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"v_Biking_g09_c01.avi: damaged or not a video .*{len(content)} bytes") as error:
            ucf101(original, split="test").read(0)
        assert "\n" not in str(error.value)


# --- classes, and MCVD's file --------------------------------------------------------------------------------

def test_classes_have_the_numbers_of_the_official_list(original):
    (original.parent / "ucfTrainTestlist/classInd.txt").write_text("1 Archery\n2 Bowling\n3 Biking\n")
    (original / "Archery/v_Archery_g08_c01.avi").rename(original / "Archery/v_ArCHery_g08_c01.avi")
    source = ucf101(original)
    assert source.classes == ("Archery", "Bowling", "Biking") and [source.label(i) for i in range(3)] == [0, 0, 2]
    assert [ucf101(original, split="test").label(0)] == [2]


def test_classes_without_the_list_are_in_natural_order(ucf):
    shutil.rmtree(ucf / "ucfTrainTestlist")
    for split in ("train", "all"):
        source = ucf101(ucf, split=split)
        assert source.classes == ("Archery", "Biking") and [source.label(i) for i in range(3)] == [0, 0, 1]


def test_one_side_knows_the_classes_of_the_other(ucf):
    assert ucf101(ucf, split="train").classes == ucf101(ucf, split="test").classes == ("Archery", "Biking")


@pytest.mark.parametrize("given", ["", "UCF101_64.hdf5"])
def test_mcvds_file_holds_the_training_videos_first(tmp_path, given):
    videos = [flat(seed, t=3) for seed in range(5)]
    put_shard(tmp_path / "UCF101_64.hdf5", videos, target=[4, 1, 0, 4, 2], scalars={"num_train": 3, "num_test": 2})
    train, test = (ucf101(tmp_path / given, split=split) for split in ("train", "test"))
    assert [train.label(i) for i in range(len(train))] == [4, 1, 0] and [test.label(i) for i in range(len(test))] == [4, 2]
    assert np.array_equal(test.read(1), videos[4]) and "data.fold is not read" in test.notes[0]
    assert len(ucf101(tmp_path / given)) == 5 and train.notes != []


def test_mcvds_file_without_the_number_of_training_videos_has_no_sides(tmp_path):
    put_shard(tmp_path / "UCF101_h5/shard_0001.hdf5", [flat()], target=[0])
    assert len(ucf101(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"does not tell num_train.*use data.split=all"):
        ucf101(tmp_path, split="train")


def test_real_ucf_has_labels(video_data):
    source = ucf101(video_data)
    assert len(source.classes) == 101
    assert [source.classes[source.label(i)] for i in range(4)] == [source.paths[i].parent.name for i in range(4)]
