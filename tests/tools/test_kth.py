"""KTH in each layout: recordings, sequences of the list, folders of frames, MCVD's HDF5; sides by person."""

import numpy as np
import pytest
from media import encode, flat, names, put_frames
from shards import put_shard

from tools.sources import SOURCES

PERSONS = {"boxing/person01_boxing_d1": 1, "jogging/person20_jogging_d2": 20, "walking/person21_walking_d4": 21,
           "running/person25_running_d3": 25}


def kth(path, **options):
    return SOURCES.bind({"name": "KTH", **options})(path)


@pytest.fixture
def raw(tmp_path):
    for name, person in PERSONS.items():
        encode(tmp_path / f"KTH/{name}_uncomp.avi", flat(person, t=10), "mpeg4")
    return tmp_path


@pytest.mark.parametrize("given", ["", "KTH"])
def test_persons_tell_the_sides(raw, given):
    train, test, all_ = (kth(raw / given, split=split) for split in ("train", "test", "all"))
    assert names(train) == ["person01_boxing_d1_uncomp", "person20_jogging_d2_uncomp"]
    assert names(test) == ["person25_running_d3_uncomp", "person21_walking_d4_uncomp"] and len(all_) == 4
    assert [all_.classes[all_.label(i)] for i in range(4)] == ["boxing", "jogging", "running", "walking"]
    assert "holds 4 of the 599 recordings" in train.notes[0] and "whole recordings" in train.notes[1]
    assert all_.num_frames(0) == 10 and np.abs(all_.read(0, 2, 9, 3).astype(int) - flat(1, t=10)[2:9:3]).max() <= 12


def test_a_list_of_sequences_cuts_the_recordings(raw):
    (raw / "KTH/00sequences.txt").write_text("person01_boxing_d1\tframes\t1-6, 7-10\nperson21_walking_d4\tframes\t2-5\n")
    train, test = (kth(raw, split=split) for split in ("train", "test"))
    assert names(train) == ["person01_boxing_d1_1", "person01_boxing_d1_2"] and names(test) == ["person21_walking_d4_1"]
    whole = kth(raw, segments=False)
    assert len(whole) == 4 and np.array_equal(train.read(1, 1, 4, 2), whole.read(0, 7, 10, 2))
    assert train.num_frames(1) == 4 and test.classes[test.label(0)] == "walking"


def test_sequences_without_their_list_are_refused(raw):
    with pytest.raises(ValueError, match=r"has no 00sequences.txt.*segments=false"):
        kth(raw, segments=True)


def test_folders_of_frames(tmp_path):
    for name, person in PERSONS.items():
        put_frames(tmp_path / f"processed/{name}_uncomp", flat(person, t=3))
    test = kth(tmp_path, split="test")
    assert len(test) == 2 and np.array_equal(test.read(1), flat(21, t=3)) and len(kth(tmp_path, split="train")) == 2
    with pytest.raises(ValueError, match="holds folders of frames"):
        kth(tmp_path, segments=True)


@pytest.mark.parametrize("given", ["", "KTH64_h5", "KTH64_h5/shard_0001.hdf5"])
def test_mcvds_shards(tmp_path, given):
    videos = [flat(person, t=3)[..., 0] for person in PERSONS.values()]
    folder = tmp_path / "KTH64_h5"
    put_shard(folder / "shard_0001.hdf5", videos[:3], person=[1, 20, 21], target=[0, 3, 5])
    put_shard(folder / "shard_0002.hdf5", videos[3:], person=[25], target=[4])
    if given.endswith("hdf5"):
        assert len(kth(tmp_path / given, split="test")) == 1
        return
    train, test = (kth(tmp_path / given, split=split) for split in ("train", "test"))
    assert [train.read(i)[0, 0, 0, 0] for i in range(2)] == [videos[i][0, 0, 0] for i in (0, 1)]
    assert [test.read(i)[0, 0, 0, 0] for i in range(2)] == [videos[i][0, 0, 0] for i in (2, 3)]
    assert [test.classes[test.label(i)] for i in range(2)] == ["walking", "running"] and len(kth(tmp_path)) == 4


def test_an_empty_side_names_the_way_out(tmp_path):
    encode(tmp_path / "person01_boxing_d1_uncomp.avi", flat(), "mpeg4")
    with pytest.raises(ValueError, match=r"none of its 1 videos is on the test side; use data.split=all"):
        kth(tmp_path, split="test")
    put_shard(tmp_path / "KTH/a.h5", [flat()], person=[25])
    with pytest.raises(ValueError, match=r"none of its 1 videos is on the train side; use data.split=all"):
        kth(tmp_path / "KTH", split="train")


def test_shards_of_another_dataset_are_not_taken(tmp_path):
    put_shard(tmp_path / "UCF101_64.hdf5", [flat()], target=[1])
    with pytest.raises(ValueError, match=r"holds no KTH recording \(found UCF101_64.hdf5; --data_path\); wanted KTH/ACTION"):
        kth(tmp_path)
