"""Cityscapes in each layout: folders, zips, MCVD's HDF5; the sides are folders."""

import zipfile

import numpy as np
import pytest
from media import flat, names, put_frames
from PIL import Image
from shards import put_shard

from tools.sources import SOURCES


def cityscapes(path, **options):
    return SOURCES.bind({"name": "CITYSCAPES", **options})(path)


def pixels(city, number):
    return np.full((8, 16, 3), (len(city) * 40 + number) % 256, np.uint8)


def put(root, side, city, first, count=30):
    for number in range(first, first + count):
        path = root / side / city / f"{city}_000000_{number:06d}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(city, number)).save(path)


@pytest.fixture
def raw(tmp_path):
    root = tmp_path / "cityscapes/leftImg8bit_sequence"
    put(root, "train", "ulm", 5)
    put(root, "train", "ulm", 50)
    put(root, "val", "bonn", 0)
    return tmp_path


@pytest.mark.parametrize("given", ["", "cityscapes", "cityscapes/leftImg8bit_sequence"])
def test_snippets_of_thirty_frames(raw, given):
    train = cityscapes(raw / given, split="train")
    assert names(train) == ["train_ulm_000000_000005", "train_ulm_000000_000050"]
    assert [train.num_frames(i) for i in range(2)] == [30, 30]
    assert np.array_equal(train.read(1, 3, 30, 9), np.stack([pixels("ulm", 50 + t) for t in (3, 12, 21)]))
    assert np.array_equal(train.read(1)[3:30:9], train.read(1, 3, 30, 9))


def test_val_is_the_test_side_where_there_is_no_other(raw):
    assert names(cityscapes(raw, split="test")) == ["val_bonn_000000_000000"] and len(cityscapes(raw)) == 3
    put(raw / "cityscapes/leftImg8bit_sequence", "test", "berlin", 0)
    assert names(cityscapes(raw, split="test")) == ["test_berlin_000000_000000"]


def test_the_zip_as_it_is_downloaded(raw):
    folder = raw / "cityscapes"
    (raw / "zips").mkdir()
    with zipfile.ZipFile(raw / "zips/leftImg8bit_sequence_trainvaltest.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    source = cityscapes(raw / "zips", split="train")
    assert len(source) == 2 and np.array_equal(source.read(0, 29), pixels("ulm", 34)[None])


def test_mcvds_shards(tmp_path):
    for seed, side in enumerate(("train", "val", "test")):
        put_shard(tmp_path / f"Cityscapes128_h5/{side}/shard_0001.hdf5", [flat(seed)])
    for split, seed in (("train", 0), ("test", 2)):
        source = cityscapes(tmp_path, split=split)
        assert len(source) == 1 and np.array_equal(source.read(0), flat(seed))


def test_other_folders_are_not_taken(tmp_path):
    put_frames(tmp_path / "train/a")
    for path, what in ((tmp_path, r"found train/"), (tmp_path / "train/a", r"found frame0.png")):
        with pytest.raises(ValueError, match=rf"{path}: holds no .*{what}.*; --data_path.*wanted leftImg8bit_sequence"):
            cityscapes(path)


def test_an_empty_side_names_the_way_out(tmp_path):
    put(tmp_path / "leftImg8bit_sequence", "train", "ulm", 0)
    with pytest.raises(ValueError, match=r"on the test side; use data.split=all"):
        cityscapes(tmp_path, split="test")
