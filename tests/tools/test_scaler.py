"""What is cut and scaled in the decoder is where it should be, in the colours of the file."""

import av
import numpy as np
import pytest
from test_container_pixels import COLOURS, MATRICES, write

from tools.container import read_container
from tools.scaler import cut_rgb, rgb
from tools.video import read_video, resize_crop


def ramp(height, width, by_row, by_column, kind="yuv420p"):
    """A grey picture that brightens by so much for a pixel."""
    picture = av.VideoFrame(width, height, kind)
    levels = 60 + by_row * np.arange(height)[:, None] + by_column * np.arange(width)
    for number, plane in enumerate(picture.planes):
        lines = np.full((plane.height, plane.line_size), 128, np.uint8)
        if not number:
            lines[:, :width] = np.rint(levels)
        plane.update(lines)
    return picture


@pytest.mark.parametrize("part, size", [((0, 48, 0, 64), (72, 96)), ((4, 44, 10, 50), (60, 60)), ((0, 48, 8, 56), (48, 56)),
                                        ((6, 47, 2, 61), (80, 90)), ((0, 48, 2, 64), (100, 62))])
def test_a_pixel_shows_the_place_that_it_stands_for(part, size):
    top, bottom, left, right = part
    picture = ramp(48, 64, 1.5, 1)
    got, again = cut_rgb([picture] * 2, (slice(top, bottom), slice(left, right)), size)
    assert got.shape == (*size, 3) and np.array_equal(got, again)
    y, x = ((np.arange(n) + 0.5) * (stop - start) / n - 0.5 + start for n, start, stop in zip(size, part[::2], part[1::2]))
    wanted = (60 + 1.5 * y[:, None] + x - 16) * 255 / 219  # BT.601, limited range
    inner = (slice(3, -3),) * 2                            # at the border there is nothing to go on with
    assert np.abs(got[inner].astype(float) - wanted[inner][..., None]).max() <= 2.5  # a level of luma, rounded twice


@pytest.mark.parametrize("kind", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray", "yuva420p", "yuv420p10le"])
def test_what_is_not_scaled_is_the_part_of_the_whole(kind):
    picture = ramp(48, 64, 1.5, 1).reformat(format=kind)
    for part in ((slice(2, 47), slice(6, 63)), (slice(0, 20), slice(0, 20)), (slice(0, 48), slice(0, 64))):
        size = tuple(side.stop - side.start for side in part)
        assert np.array_equal(cut_rgb([picture], part, size)[0], rgb(picture)[part])
        [smaller] = cut_rgb([picture], part, (8, 8))  # by so much that it is left to others
        assert np.array_equal(smaller, rgb(picture)[part])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_scaled_colours_are_those_of_the_standard(tmp_path, matrix, full):
    write(tmp_path / "video.mp4", matrix, full, "yuv420p")
    got = read_container(tmp_path / "video.mp4", range(len(COLOURS)), (96, 90))
    assert got.shape == (len(COLOURS), 96, 90, 3)
    assert np.abs(got.astype(int) - COLOURS[:, None, None]).max() <= 5


def test_real_video_is_as_if_it_were_scaled_in_rgb(video_data):
    for path in [*sorted((video_data / "ucf101").rglob("*.avi")), video_data / "videos" / "torchcodec_nasa_13013.mp4"]:
        got, plain = read_video(path, 5, 9, size=(256, 256)), resize_crop(read_video(path, 5, 9), (256, 256))
        error = got.astype(float) - plain
        assert np.abs(error.mean()) < 0.3 and np.sqrt((error ** 2).mean()) < 2
