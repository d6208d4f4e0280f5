"""Frames of drives with their places: which belongs to which, and what is refused."""

from collections import Counter

import numpy as np
import pytest
import torch
from town import drive, look, put_town

from evals.carla_data import Places, coords_path, read_coords
from tools.loading import loader
from tools.pack import PackConfig, make_plan, write
from tools.raw import open_raw
from tools.sources import SOURCES


def places(folder, split="all", **options):
    return Places(SOURCES.bind({"name": "CARLA", "split": split})(folder), **({"size": (16, 16), "seed": 5} | options))


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return put_town(tmp_path_factory.mktemp("town"), drives=4, length=7)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_frame_comes_with_the_place_where_it_was_taken(town, workers):
    supply = places(town)
    for step in loader(supply, batch_size=6, start_step=2, stop_step=4, micro_batch=3, workers=workers):
        for batch in step:
            coords = supply.coords_of(batch["index"])
            assert coords.shape == (3, 2)
            np.testing.assert_array_equal(batch["frames"].numpy(), look(coords.double().numpy()))


def test_an_epoch_visits_each_frame_once_and_the_next_in_another_order(town):
    supply = places(town)
    epochs = [[tuple(c) for c in supply.coords_of(range(start, start + 28)).tolist()] for start in (0, 28)]
    every = Counter(tuple(c) for number in range(4) for c in drive(number, 7).astype(np.float32).tolist())
    assert Counter(epochs[0]) == Counter(epochs[1]) == every and epochs[0] != epochs[1]
    assert len(supply) == 28


def test_another_seed_is_another_order(town):
    first, second = (places(town, seed=seed).coords_of(range(28)) for seed in (1, 2))
    assert not torch.equal(first, second)


def test_a_side_has_its_own_drives(town):
    assert torch.equal(places(town, "test").coords[:7], torch.from_numpy(drive(2, 7)).float())


def test_frames_of_validation_are_spread_over_all_drives(town):
    frames, coords = places(town).some(8)
    np.testing.assert_array_equal(frames.numpy(), look(coords.double().numpy()))
    for number in range(4):
        assert any((drive(number, 7).astype(np.float32) == c.numpy()).all(1).any() for c in coords)
    assert len(places(town).some(1000)[0]) == 28


def test_frames_are_brought_to_the_size(town):
    frames, _ = places(town, size=(8, 8)).some(3)
    assert frames.shape == (3, 8, 8, 3)


# --- what is refused -----------------------------------------------------------------------------------------

def test_the_height_above_the_ground_is_cut_off(tmp_path):
    np.save(tmp_path / "coords_1.npy", np.arange(6.0).reshape(2, 3))
    assert read_coords(coords_path(tmp_path / "video_1.pt")).tolist() == [[0, 1], [3, 4]]


@pytest.mark.parametrize("content, error", [
    (np.zeros(4), r"holds float64 \(4,\); wanted numbers t 2"), (np.zeros((0, 2)), r"holds float64 \(0, 2\)"),
    (np.array([["a", "b"]]), "holds <U1"), (np.array([[0, 1], [0, np.nan]]), "frame 1 has no finite coordinates"),
])
def test_what_are_no_coordinates_is_told(tmp_path, content, error):
    np.save(tmp_path / "coords_1.npy", content)
    with pytest.raises(ValueError, match=error):
        read_coords(tmp_path / "coords_1.npy")


def test_a_torn_file_is_one_line(tmp_path):
    (tmp_path / "coords_1.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"coords_1.npy: damaged or no array .*; write it again"):
        read_coords(tmp_path / "coords_1.npy")


@pytest.mark.parametrize("coords, error", [
    (None, r"coords_1.npy: no such file; .* beside it"),
    (drive(1, 6), r"coords_1.npy: holds 6 places, but video video_1 has 7"),
    (drive(1, 7) + 400, r"coords_1.npy: the place \(.*\) is not on the map"),
])
def test_coordinates_that_cannot_be_of_the_drive_are_told(tmp_path, coords, error):
    put_town(tmp_path, drives=3, length=7)
    (tmp_path / "coords_1.npy").unlink()
    if coords is not None:
        np.save(tmp_path / "coords_1.npy", coords)
    with pytest.raises(ValueError, match=error):
        places(tmp_path)


def prepared(folder, out):
    raw, cfg = open_raw("CARLA", folder), PackConfig("CARLA", (16, 16), min_frames=1)
    write(raw, make_plan(raw, cfg, 0), out, cfg, 0)
    return out


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_prepared_set_has_the_same_places_for_the_same_frames(town, tmp_path, split):
    supply, raw = places(prepared(town, tmp_path / "out"), split), places(town, split)
    for (frames, coords), (truth, where) in ((supply.some(9), raw.some(9)),):
        assert torch.equal(coords, where) and torch.equal(frames, truth) and len(coords) == 9
    np.testing.assert_array_equal(frames.numpy(), look(coords.double().numpy()))


def test_a_prepared_set_without_places_is_refused(tmp_path):
    put_town(tmp_path / "raw", drives=3, length=7)
    for number in range(3):
        (tmp_path / f"raw/coords_{number}.npy").unlink()
    with pytest.raises(ValueError, match=r"which video_0 of this set has not; give FDM's folder .* tools.prepare CARLA"):
        places(prepared(tmp_path / "raw", tmp_path / "out"))


def test_a_set_without_files_is_refused():
    with pytest.raises(ValueError, match=r"of this set has not; give FDM's folder no-traffic"):
        Places(SOURCES.bind("SHAPES")(""), size=(16, 16), seed=0)
