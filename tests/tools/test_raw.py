"""Downloads by name: readers first, then data sources, with their sides, classes and options."""

import numpy as np
import pytest
from media import put

from tools.raw import READERS, open_raw
from tools.sources import SOURCES


def described(raw):
    return {raw.video(i).name: raw.video(i)[1:] for i in range(len(raw))}


def test_sides_of_a_data_source(tmp_path):
    for side, name in (("train", "a"), ("train", "b"), ("val", "c"), (".", "d")):
        put(tmp_path / side / f"{name}.npy")
    found = described(open_raw("VIDEOS", tmp_path))
    assert found == {"a": ("train/a.npy", ("train",), -1), "b": ("train/b.npy", ("train",), -1),
                     "c": ("val/c.npy", ("test",), -1), "d": ("d.npy", (), -1)}


def test_classes_of_a_data_source(tmp_path):
    for name in ("Biking/v_Biking_g01_c01", "Archery/v_Archery_g01_c01"):
        put(tmp_path / f"UCF-101/{name}.npy")
    raw = open_raw("UCF101", tmp_path)
    assert {name: raw.classes[label] for name, (*_, label) in described(raw).items()} == {
        "v_Archery_g01_c01": "Archery", "v_Biking_g01_c01": "Biking"}


def test_lists_that_are_absent_are_no_sides(tmp_path):
    put(tmp_path / "UCF-101/Run/v_Run_g01_c01.npy")  # the source then gives everything for any side
    assert described(open_raw("UCF101", tmp_path))["v_Run_g01_c01"][1] == ()


def test_frames_are_those_of_the_source(tmp_path):
    put(tmp_path / "a.npy", value=3, length=9)
    raw = open_raw("VIDEOS", tmp_path)
    assert raw.num_frames(0) == 9
    np.testing.assert_array_equal(raw.read(0, 2, 6), np.full((4, 8, 8, 3), 3, np.uint8))


def test_options_reach_the_source():
    assert len(open_raw("SHAPES", ".", {"count": 3})) == 6


@pytest.mark.parametrize("name, options, why", [
    ("SHAPE", {}, 'unknown dataset "SHAPE" .did you mean "SHAPES"'),
    ("SHAPES", {"coun": 3}, 'no option "coun" .did you mean "count"'),
    ("VIDEOS", {}, "holds no video")])
def test_bad_input(tmp_path, name, options, why):
    with pytest.raises(ValueError, match=why):
        open_raw(name, tmp_path, options)


def test_a_path_that_is_absent(tmp_path):
    with pytest.raises(ValueError, match=r"absent: no such folder or file \(--src\)"):
        open_raw("VIDEOS", tmp_path / "absent")


def test_an_option_of_another_layout_is_refused(tmp_path):
    np.save(tmp_path / "mnist_test_seq.npy", np.zeros((20, 1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match='this SMMNIST download has no option "digits"'):
        open_raw("SMMNIST", tmp_path, {"digits": "sklearn"})


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_a_reader_prepares_is_read_under_its_name(name):
    assert name in SOURCES


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_passes_by_another_layout(tmp_path, name):
    put(tmp_path / "a.npy")
    assert READERS.get(name)(tmp_path) is None
