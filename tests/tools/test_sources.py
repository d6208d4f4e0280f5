"""The contract of every source: in bounds and deterministic, and an error that says what layout is wanted."""

import numpy as np
import pytest
from media import encode, flat, names, put, put_frames

from tools.sources import SOURCES

# where the contract tests find a registered source in the folder of real videos, and in one of small files
PLACES = {"UCF101": "ucf101/UCF-101", "SKY": "SkyTimelapse", "VIDEOS": "videos", "SHAPES": ""}


def small_data(folder):
    """A little of every layout in PLACES."""
    for number in (1, 2):
        encode(folder / f"ucf101/UCF-101/Biking/v_Biking_g0{number}_c01.avi", flat(number, t=9), "mpeg4")
        put_frames(folder / f"SkyTimelapse/train/{number}", flat(number, t=3))
        put(folder / f"videos/{number}.npy", number, length=1)
    return folder


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_keeps_the_contract(request, tmp_path, name, real):
    data = request.getfixturevalue("video_data") if real else small_data(tmp_path)
    source, again = (SOURCES.bind({"name": name})(str(data / PLACES[name])) for _ in range(2))
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
