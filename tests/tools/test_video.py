"""Reading is exact at every frame, conversion is its own inverse, and broken files say so in one line."""

import numpy as np
import pytest
import torch
from media import encode, flat, moving, put_frames, save
from PIL import Image

from tools.video import frame_files, num_frames, read_video, resize_crop, to_clip, to_frames
from tools.writers import write_gif, write_mp4, write_png

# --- conversion and size -------------------------------------------------------------------------------------

def test_every_grey_level_survives_the_conversion():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1)
    clip = to_clip(frames)
    assert clip.shape == (1, 1, 1, 16, 16) and clip.dtype == torch.float32
    assert clip.min() == -1 and clip.max() == 1
    assert torch.equal(to_frames(clip), frames)


def test_floats_are_rounded_and_clamped():
    level = torch.tensor([-3.0, 100.6 / 127.5 - 1, 100.4 / 127.5 - 1, 3.0]).reshape(1, 1, 1, 1, 4)
    assert to_frames(level).flatten().tolist() == [0, 101, 100, 255]


def test_clip_axes_follow_their_names():
    frames = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    assert torch.equal(to_clip(frames)[1, 2, 0], frames[1, 0, :, :, 2] / 127.5 - 1)


def test_resize_to_the_same_size_changes_nothing():
    frames = moving(3)
    assert resize_crop(frames, frames.shape[1:3]) is frames


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (96, 40), (7, 31)])
def test_resize_has_the_size_asked_for_and_agrees_with_pil(size):
    frames = moving(2, size=(48, 64))
    out = resize_crop(frames, size)
    assert out.shape == (2, *size, 3) and out.dtype == np.uint8 and out.flags.c_contiguous
    scale = min(48 / size[0], 64 / size[1])
    tall, wide = round(size[0] * scale), round(size[1] * scale)
    left, top = (64 - wide) // 4 * 2, (48 - tall) // 4 * 2
    image = Image.fromarray(frames[1]).crop((left, top, left + wide, top + tall))
    assert np.abs(out[1].astype(int) - image.resize(size[::-1], Image.Resampling.BILINEAR)).max() <= 1


def test_crop_keeps_the_centre_and_stretch_keeps_everything():
    frames = np.zeros((1, 10, 30, 1), np.uint8)
    frames[:, :, 10:20] = 200
    assert (resize_crop(frames, (10, 10)) == 200).all()
    assert resize_crop(frames, (10, 15), mode="stretch")[0, 5, 0, 0] == 0
    with pytest.raises(ValueError, match="stretch"):
        resize_crop(frames, (5, 5), mode="bend")


def test_the_aspect_and_the_centre_are_kept():
    y, x = np.indices((60, 90)) + 0.5
    frames = np.uint8(np.stack([x, y, 0 * x], -1))[None]  # every pixel says where it is
    for size in ((30, 30), (80, 20), (20, 80), (90, 90)):
        ends = resize_crop(frames, size).astype(float)[0, [0, -1]][:, [0, -1], :2]  # corners
        spread = (ends[1, 1] - ends[0, 0]) / (np.array(size[::-1]) - 1)  # source pixels for one of the result
        assert abs(spread[0] - spread[1]) < 0.1 and np.abs(ends.mean((0, 1)) - (45, 30)).max() <= 2


@pytest.mark.parametrize("size", [(30, 30), (31, 8), (7, 40), (5, 64), (48, 64), (1, 1)])
@pytest.mark.parametrize("name", ["video.mp4", "video.npy", "frames"])
def test_a_video_can_be_read_in_the_size_wanted(tmp_path, name, size):
    {"video.mp4": write_mp4, "video.npy": save, "frames": put_frames}[name](tmp_path / name, moving(6))
    full, read = read_video(tmp_path / name, 1, 6, 2), read_video(tmp_path / name, 1, 6, 2, size=size)
    assert read.shape == (3, *size, 3) and read.flags.c_contiguous and read.flags.writeable
    assert np.array_equal(read, resize_crop(full, size))  # none is enlarged: see test_scaler


def test_shrinking_is_antialiased():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(resize_crop(stripes, (16, 16)).astype(int)[:, :, 1:-1] - 127.5).max() <= 1  # not aliased to 0


# --- reading -------------------------------------------------------------------------------------------------

WRITERS = {  # file or folder: how it is written, and how far its levels may be off
    "video.mp4": (write_mp4, 4), "VIDEO.MP4": (write_mp4, 4), "video.gif": (write_gif, 0),
    "video.avi": (lambda path, frames: encode(path, frames, "mjpeg", "yuvj444p"), 4),
    "video.npy": (save, 0), "video.npz": (np.savez, 0), "frames": (put_frames, 0),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_window_asked_for(tmp_path, name):
    write, error = WRITERS[name]
    frames = flat(t=12)
    write(tmp_path / name, frames)
    assert num_frames(tmp_path / name) == 12
    for window in ((0, None, 1), (3, 12, 4), (11, 12, 1)):
        got = read_video(str(tmp_path / name), *window)
        wanted = frames[slice(*window)]
        assert got.dtype == np.uint8 and got.shape == wanted.shape
        assert np.abs(got.astype(int) - wanted).max() <= error


@pytest.mark.parametrize("window", [(-1, 3, 1), (0, 6, 1), (3, 3, 1), (5, None, 1), (0, 3, 0)])
def test_windows_outside_the_video_are_refused(tmp_path, window):
    np.save(tmp_path / "five.npy", moving(5))
    with pytest.raises(ValueError, match=r"five.npy: has 5 frames"):
        read_video(tmp_path / "five.npy", *window)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(ValueError, match="no such"):
        read_video(tmp_path / "nothing.mp4")
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(ValueError, match="unknown kind"):
        read_video(tmp_path / "notes.txt")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="damaged or not a video"):
        read_video(tmp_path / "text.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        read_video(tmp_path / "empty")


def test_arrays(tmp_path):
    frames = moving(6)
    np.save(tmp_path / "a.npy", frames)
    np.savez(tmp_path / "b.npz", frames=frames, action=np.zeros(6))
    np.savez(tmp_path / "c.npz", frames.astype(np.int64))
    for name in ("a.npy", "b.npz", "c.npz"):
        assert num_frames(tmp_path / name) == 6
        got = read_video(tmp_path / name, 1, 6, 2)
        assert got.dtype == np.uint8 and np.array_equal(got, frames[1:6:2])
        got[:] = 0  # a copy, not the file


@pytest.mark.parametrize("array, wrong", [
    (np.zeros((4, 3, 8, 8), np.float32), "shape"), (np.zeros((4, 8, 8, 3), np.float32), "float32"),
    (np.zeros((8, 8, 3), np.uint8), "shape"), (np.full((4, 8, 8, 3), 300), "300"), (np.zeros((0, 8, 8, 3)), "shape"),
])
def test_other_arrays_are_refused(tmp_path, array, wrong):
    np.save(tmp_path / "wrong.npy", array)
    with pytest.raises(ValueError, match=rf"wrong.npy: .*{wrong}"):
        read_video(tmp_path / "wrong.npy")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_npz_is_one_line(tmp_path, compressed):
    path = tmp_path / "video.npz"
    (np.savez_compressed if compressed else np.savez)(path, np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8))
    data = path.read_bytes()
    ones = data[:300] + b"\xff" * 40 + data[340:]
    for content in (b"", data[:200], data[:-30], ones, b"frames"):
        path.write_bytes(content)
        for read in (read_video,) if content is ones else (num_frames, read_video):
            with pytest.raises(ValueError, match=r"video.npz: damaged or not an array.*data.on_error=skip") as error:
                read(path)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["frames", "arr_0"])
def test_the_length_of_an_npz_is_read_without_its_pixels(tmp_path, name):
    path = tmp_path / "video.npz"
    np.savez(path, **{name: np.full((5, 64, 64, 3), 77, np.uint8), "action": np.zeros(9)})
    path.write_bytes(path.read_bytes().replace(b"M" * 900, bytes(900)))  # 77 is M: most of the pixels are lost
    assert num_frames(path) == 5
    with pytest.raises(ValueError, match="damaged or not an array"):
        read_video(path)


@pytest.mark.parametrize("array, wrong", [(np.zeros((0, 8, 8, 3), np.uint8), "shape"), (np.zeros((4, 8, 8, 3)), "float64")])
def test_the_length_of_other_npz_is_refused(tmp_path, array, wrong):
    np.savez(tmp_path / "wrong.npz", array)
    with pytest.raises(ValueError, match=rf"wrong.npz: an array of .*{wrong}"):
        num_frames(tmp_path / "wrong.npz")


def test_arrays_never_run_code(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged or not an array"):
        read_video(tmp_path / "objects.npy")


def test_frame_folders_are_in_natural_order(tmp_path):
    frames = moving(12)
    for number, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / f"frame{number}.png")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "readme.txt").write_text("x")
    assert frame_files(tmp_path)[9:11] == ("frame9.png", "frame10.png")
    assert num_frames(tmp_path) == 12
    assert np.array_equal(read_video(tmp_path, 1, 12, 3), frames[1:12:3])


def test_images_of_any_mode_have_three_channels(tmp_path):
    image = Image.fromarray(moving(1)[0])
    for mode in ("RGB", "L", "P", "RGBA", "1", "LA"):
        image.convert(mode).save(tmp_path / "image.png")
        assert read_video(tmp_path / "image.png").shape == (1, 48, 64, 3), mode
    image.save(tmp_path / "image.jpg")
    assert num_frames(tmp_path / "image.jpg") == 1 and read_video(tmp_path / "image.jpg").shape == (1, 48, 64, 3)


def test_16_bit_images_are_scaled(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(tmp_path / "deep.png")
    assert read_video(tmp_path / "deep.png")[0, ..., 1].flatten().tolist() == list(range(256))


def test_frame_folders_name_the_file_that_is_wrong(tmp_path):
    write_png(tmp_path / "a.png", moving(1)[0])
    write_png(tmp_path / "b.png", moving(1)[0, :-2])
    with pytest.raises(ValueError, match=r"b.png: 64x46 pixels, but a.png has 64x48"):
        read_video(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b.png: damaged image"):
        read_video(tmp_path)
