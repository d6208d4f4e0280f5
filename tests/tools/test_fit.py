"""Frames of any size and colour for a model of one."""

import numpy as np
import pytest
from media import moving, put_frames
from numbered import Counted
from shards import put_shard

from tools.fit import RESIZES, fit, read_fit, turn_hue
from tools.joined import open_files
from tools.mixture import Mixture
from tools.tree import HDF5, find_videos


def test_grey_and_resizing():
    frames = np.zeros((2, 12, 16, 3), np.uint8)
    frames[..., 1] = 100
    assert fit(frames, (6, 6)).shape == (2, 6, 6, 3)
    grey = fit(frames, (12, 16), channels=1)
    assert grey.shape == (2, 12, 16, 1) and (grey == 59).all()  # 0.587 * 100
    assert np.array_equal(fit(grey, (12, 16), channels=3), np.repeat(grey, 3, -1))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size, channels", [((16, 16), 3), ((20, 9), 1), ((48, 64), 3), ((100, 3), 3)])  # a column, rounded
def test_reading_and_fitting_at_once_is_reading_and_fitting(tmp_path, resize, size, channels):
    # files, files beside HDF5, a mixture of these and of what can only read whole frames
    put_frames(tmp_path / "a", moving(7))
    put_shard(tmp_path / "b.h5", [moving(7)])
    files = open_files(find_videos(tmp_path, also=HDF5), tmp_path)
    mixed = Mixture([("files", files), ("numbers", Counted([9]))], [1, 1], [(), ()])
    for i in range(3):
        frames = mixed.read(i, 1, 6, 2)
        wanted = fit(frames, size, channels, resize)
        for _ in range(2):  # and again from memory
            got = read_fit(mixed, i, 1, 6, 2, size, channels, resize)
            assert np.array_equal(got, wanted) and got.flags.c_contiguous
            assert np.array_equal(mixed.read(i, 1, 6, 2), frames)


def ramp(height, width):
    """One frame, red along its rows and green along its columns."""
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 255, height)[:, None]
    frame[..., 1] = np.linspace(0, 255, width)
    return frame


def test_cropping_keeps_the_centre_and_the_aspect():
    made = fit(ramp(60, 120), (30, 30))[0].astype(int)
    assert made[0, 0, 0] < 8 and made[-1, 0, 0] > 247  # all of the height
    assert abs(made[0, 0, 1] - 64) < 6 and abs(made[0, -1, 1] - 191) < 6  # the middle half of the width


def test_stretching_shows_all_and_gives_up_the_aspect():
    made = fit(ramp(60, 120), (30, 30), resize="stretch")[0].astype(int)
    assert made[0, 0, 0] < 8 and made[-1, 0, 0] > 247 and made[0, 0, 1] < 8 and made[0, -1, 1] > 247


@pytest.mark.parametrize("size, rows, columns", [
    ((30, 30), slice(7, 22), slice(0, 30)), ((30, 90), slice(0, 30), slice(15, 75)), ((20, 40), slice(0, 20), slice(0, 40)),
    ((3, 1), slice(1, 2), slice(0, 1))])
def test_padding_shows_all_at_its_aspect_between_black_bars(size, rows, columns):
    made = fit(np.full((2, 60, 120, 3), 200, np.uint8), size, resize="pad")
    assert made.shape == (2, *size, 3)
    inside = np.zeros(size, bool)
    inside[rows, columns] = True
    assert (made[:, inside] == 200).all() and (made[:, ~inside] == 0).all()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_making_smaller_averages_what_is_finer_than_a_pixel(resize):
    checks = np.indices((64, 64)).sum(0)[None, :, :, None] % 2 * np.uint8(255)
    made = fit(checks.repeat(3, -1).astype(np.uint8), (16, 16), resize=resize).astype(int)
    assert np.abs(made[:, 1:-1, 1:-1] - 127.5).max() < 6  # without the filter, all black or all white


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="mode"):
        fit(ramp(4, 4), (2, 2), resize="fill")


def test_a_third_of_the_circle_turns_red_to_green():
    red = np.zeros((2, 3, 4, 3), np.uint8)
    red[..., 0] = 240
    turned = turn_hue(red, 1 / 3)
    assert turned.shape == red.shape and turned.dtype == np.uint8
    assert np.abs(turned.astype(int) - [0, 240, 0]).max() <= 2
    assert np.array_equal(turn_hue(red, 0.0), red)
