"""What is written can be read again: every frame, every pixel where the format allows it, in its place."""

import av
import numpy as np
import pytest
from media import flat, moving, still
from PIL import Image

from tools.video import read_video
from tools.writers import Mp4Writer, grid_frames, strip, write_gif, write_mp4, write_npz, write_png

WHITE, RED = (255, 255, 255), (220, 40, 40)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape, dtype=np.uint8)  # never white


# --- files ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [(48, 64), (47, 63), (64, 33)])
def test_mp4_is_close_and_keeps_every_frame(tmp_path, size):
    frames = moving(9, size=size)
    write_mp4(tmp_path / "new" / "video.mp4", frames, fps=12.5)
    back = read_video(tmp_path / "new" / "video.mp4")[:, :size[0], :size[1]]
    assert back.shape == frames.shape
    error = np.mean((back.astype(float) - frames) ** 2)
    assert 10 * np.log10(255 ** 2 / error) > 28  # chroma at half resolution bounds it on saturated shapes
    with av.open(str(tmp_path / "new" / "video.mp4")) as file:
        assert float(file.streams.video[0].average_rate) == 12.5


def test_mp4_is_of_the_kind_that_every_player_shows(tmp_path):
    write_mp4(tmp_path / "video.mp4", flat())
    with av.open(str(tmp_path / "video.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert codec.name == "h264" and codec.pix_fmt == "yuv420p"


def test_an_mp4_in_pieces_is_the_same_file(tmp_path):
    frames = moving(9)
    write_mp4(tmp_path / "whole.mp4", frames)
    with Mp4Writer(tmp_path / "pieces.mp4") as writer:
        for piece in np.split(frames, [1, 4, 5]):
            writer.write(piece)
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_an_odd_side_of_an_mp4_repeats_its_last_line(tmp_path):
    frames = flat(t=2, h=15, w=23)
    frames[:, -1], frames[:, :, -1] = 200, 40  # what stands at the border stands in the line that is added too
    write_mp4(tmp_path / "video.mp4", frames)
    back = read_video(tmp_path / "video.mp4").astype(int)
    assert back.shape == (2, 16, 24, 3)
    assert np.abs(back[:, 15, :22] - 200).mean() < 15 and np.abs(back[:, :, 23] - 40).mean() < 15


@pytest.mark.parametrize("write, suffix", [(write_mp4, "mp4"), (write_gif, "gif")])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 16, 16, 3), (2, 2, 30, 1)])
def test_the_smallest_videos_can_be_written(tmp_path, write, suffix, shape):
    write(tmp_path / f"video.{suffix}", np.full(shape, 90, np.uint8))
    back = read_video(tmp_path / f"video.{suffix}")
    assert len(back) == shape[0] and np.abs(back.astype(int) - 90).max() <= 2


def test_gif_keeps_every_frame_also_where_nothing_moves(tmp_path):
    few = (moving(6) // 64 * 64).repeat(2, axis=0)  # few colours, so that the palette is exact
    write_gif(tmp_path / "video.gif", few)
    back = read_video(tmp_path / "video.gif")
    assert back.shape == few.shape and np.abs(back.astype(int) - few).mean() < 2
    with Image.open(tmp_path / "video.gif") as image:
        assert image.n_frames == 12 and image.info["duration"] == 100 and image.info["loop"] == 0


def test_gif_is_exact_up_to_256_colours_a_frame(tmp_path):
    frames = noise(6, 16, 16, 3)  # other colours in each frame
    write_gif(tmp_path / "video.gif", frames)
    assert np.array_equal(read_video(tmp_path / "video.gif"), frames)
    with Image.open(tmp_path / "video.gif") as image:  # a reader of another origin
        image.seek(3)
        assert np.array_equal(np.asarray(image.convert("RGB")), frames[3])


@pytest.mark.parametrize("fps, milliseconds", [(5, 200), (25, 40), (12.5, 80)])
def test_gif_plays_at_the_speed_asked_for(tmp_path, fps, milliseconds):
    write_gif(tmp_path / "video.gif", flat(t=3), fps=fps)
    with Image.open(tmp_path / "video.gif") as image:
        assert image.info["duration"] == milliseconds


def test_grey_videos_can_be_written(tmp_path):
    grey = moving(4)[..., :1]
    for write, name in ((write_mp4, "g.mp4"), (write_gif, "g.gif")):
        write(tmp_path / name, grey)
        assert np.abs(read_video(tmp_path / name).astype(int) - grey).mean() < 3


def test_png_is_lossless(tmp_path):
    image = moving(1)[0]
    write_png(tmp_path / "image.png", image)
    assert np.array_equal(read_video(tmp_path / "image.png")[0], image)
    write_png(tmp_path / "new" / "grey.png", image[..., :1])
    assert np.array_equal(read_video(tmp_path / "new" / "grey.png")[0], image[..., :1].repeat(3, axis=-1))


def test_a_file_is_replaced(tmp_path):
    for write, name in ((write_mp4, "v.mp4"), (write_gif, "v.gif")):
        for length in (9, 4):
            write(tmp_path / name, flat(t=length))
            assert len(read_video(tmp_path / name)) == length


@pytest.mark.parametrize("wrong", [still() / 255, still()[0], still()[..., :2], still()[:0]],
                         ids=["float", "one image", "two channels", "no frame"])
@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_what_is_no_video_is_not_written(tmp_path, write, wrong):
    with pytest.raises(AssertionError, match="wanted uint8 t h w c"):
        write(tmp_path / "new" / "video", wrong)
    assert not list(tmp_path.iterdir())


# --- grids ---------------------------------------------------------------------------------------------------

def test_grid_places_each_video_and_holds_the_shorter():
    videos = [np.full((t, 4, 6, 3), 10 * t, np.uint8) for t in (1, 2, 3)]
    grid = grid_frames(videos, columns=2, pad=1)
    assert grid.shape == (3, 9, 13, 3)
    assert (grid[2, :4, :6] == 10).all() and (grid[2, :4, 7:] == 20).all() and (grid[2, 5:, :6] == 30).all()
    assert (grid[:, 5:, 7:] == 255).all()


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("count, columns", [(1, 1), (4, 4), (5, 2), (6, 3), (3, 5)])
def test_all_of_a_grid_is_its_videos_or_white(count, columns, pad):
    videos = [noise(2, 4, 6, 3, seed=i) for i in range(count)]
    grid = grid_frames(videos, columns, pad)
    rows = -(-count // columns)
    assert grid.shape == (2, rows * 4 + (rows - 1) * pad, columns * 6 + (columns - 1) * pad, 3)
    for number, video in enumerate(videos):  # row by row
        row, column = divmod(number, columns)
        cell = grid[:, row * (4 + pad):row * (4 + pad) + 4, column * (6 + pad):column * (6 + pad) + 6]
        assert np.array_equal(cell, video)
        cell[:] = 255
    assert (grid == 255).all()


@pytest.mark.parametrize("count, rows, columns", [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 3), (9, 3, 3), (10, 3, 4)])
def test_a_grid_is_about_square(count, rows, columns):
    assert grid_frames([still()] * count, pad=0).shape[1:3] == (rows * 8, columns * 8)


def test_a_grid_of_different_lengths_is_as_long_as_the_longest():
    short, long = noise(2, 4, 4, 1), noise(5, 4, 4, 1, seed=1)
    grid = grid_frames([short, long], columns=2, pad=0)
    assert grid.shape == (5, 4, 8, 1) and np.array_equal(grid[:, :, 4:], long)
    assert np.array_equal(grid[:, :, :4], short[[0, 1, 1, 1, 1]])


# --- strips --------------------------------------------------------------------------------------------------

def test_strip_marks_known_frames():
    video = np.full((6, 4, 5, 3), 7, np.uint8)
    image = strip([video, video[:3]], every=2, known=[True, False, False, False, False, False], pad=2)
    assert image.shape == (2 * 6 + 2, 3 * 7 + 2, 3)
    assert (image[2:6, 2:7] == 7).all() and tuple(image[0, 0]) == (220, 40, 40)
    assert (image[2:6, 9:14] == 7).all() and (image[0, 10] == 255).all()
    assert (image[8:12, 16:21] == 255).all()  # the second video has ended


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("pad", [1, 3])
def test_all_of_a_strip_is_its_frames_or_white(every, pad):
    videos = [noise(7, 4, 6, channels, seed=channels) for channels in (3, 1)]
    image = strip(videos, every, pad=pad)
    columns = len(range(0, 7, every))
    assert image.shape == (2 * (4 + pad) + pad, columns * (6 + pad) + pad, 3)
    for row, video in enumerate(videos):
        for column in range(columns):
            top, left = pad + row * (4 + pad), pad + column * (6 + pad)
            cell = image[top:top + 4, left:left + 6]
            assert (cell == video[column * every]).all()  # grey in all three channels
            cell[:] = 255
    assert (image == 255).all()


def test_the_border_of_a_known_frame_is_closed_and_of_no_other():
    image = strip([still(length=5)], known=[False, False, True, False, False], pad=2)
    red = (image == RED).all(-1)
    wanted = np.zeros_like(red)
    wanted[0:12, 20:32] = True  # the third column with two pixels on each side of it
    wanted[2:10, 22:30] = False
    assert np.array_equal(red, wanted)


def test_known_frames_are_counted_before_thinning():
    image = strip([still(length=6)], every=2, known=[False, True, True, True, False, True], pad=1)
    assert [tuple(image[0, 9 * column + 4]) for column in range(3)] == [WHITE, RED, WHITE]


# --- arrays --------------------------------------------------------------------------------------------------

def test_an_npz_is_what_numpy_reads(tmp_path):
    videos = [noise(3, 4, 6, 3, seed=i) for i in range(4)]
    views = (video[:, ::-1] for video in videos)  # not in order in memory
    write_npz(tmp_path / "new" / "a.npz", views, 4)
    with np.load(tmp_path / "new" / "a.npz") as file:
        assert file.files == ["arr_0"] and np.array_equal(file["arr_0"], np.stack(videos)[:, :, ::-1])


def test_an_npz_refuses_videos_of_another_shape(tmp_path):
    with pytest.raises(ValueError, match=r"video 2 of 2 is \(2, 8, 8, 3\)"):
        write_npz(tmp_path / "a.npz", [still(length=3), still(length=2)], 2)
