"""Reading is exact at every frame, conversion is its own inverse, and broken files say so in one line."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tools import container
from tools.sources import SOURCES
from tools.video import (
    frame_files,
    grid_frames,
    num_frames,
    read_video,
    resize_crop,
    strip,
    to_clip,
    to_frames,
    write_gif,
    write_mp4,
    write_png,
)


def moving(length=40, size=(48, 64)):
    return SOURCES.bind({"name": "SHAPES", "size": size, "length": length})().read(0)


def decode_all(path):
    """The definition of frame i: everything decoded, in the order in which it comes out."""
    with av.open(str(path)) as file:
        return list(file.decode(file.streams.best("video")))


def pixels(frames):  # t h w 3
    eight = [f.reformat(format="yuv420p") if f.format.name == "yuv420p10le" else f for f in frames]
    return np.stack([np.rot90(e.to_ndarray(format="rgb24"), f.rotation // 90) for e, f in zip(eight, frames)])


def encode(path, frames, codec, pix_fmt="yuv420p", **options):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options={k.replace("_", "-"): str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.gop_size = 8
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = 2
        for image in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return path


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
    scale = max(size[0] / 48, size[1] / 64)
    full = max(size[0], round(48 * scale)), max(size[1], round(64 * scale))
    image = np.asarray(Image.fromarray(frames[1]).resize(full[::-1], Image.Resampling.BILINEAR))
    top, left = (full[0] - size[0]) // 2, (full[1] - size[1]) // 2
    wanted = image[top:top + size[0], left:left + size[1]]
    assert np.abs(out[1].astype(int) - wanted).max() <= 1


def test_crop_keeps_the_centre_and_stretch_keeps_everything():
    frames = np.zeros((1, 10, 30, 1), np.uint8)
    frames[:, :, 10:20] = 200
    assert (resize_crop(frames, (10, 10)) == 200).all()
    assert resize_crop(frames, (10, 15), mode="stretch")[0, 5, 0, 0] == 0
    with pytest.raises(ValueError, match="stretch"):
        resize_crop(frames, (5, 5), mode="bend")


def test_shrinking_is_antialiased():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(resize_crop(stripes, (16, 16)).astype(int)[:, :, 1:-1] - 127.5).max() <= 1  # not aliased to 0


# --- reading -------------------------------------------------------------------------------------------------

CODECS = [
    ("mp4", "libx264", {"x264_params": "open-gop=0"}),
    ("mp4", "libx264", {"x264_params": "open-gop=1"}),
    ("mkv", "libx264", {"x264_params": "open-gop=1"}),
    ("mp4", "libx264", {"x264_params": "intra-refresh=1:bframes=0"}),
    ("avi", "mpeg4", {}),
    ("mpg", "mpeg2video", {}),
    ("webm", "libvpx", {"auto_alt_ref": 1, "lag_in_frames": 16, "cpu_used": 8}),
    ("webm", "libvpx-vp9", {"auto_alt_ref": 1, "lag_in_frames": 16, "cpu_used": 8}),
    ("avi", "mjpeg", {}),
]


@pytest.mark.parametrize("suffix, codec, options", CODECS)
def test_any_window_of_any_codec_is_exact(tmp_path, suffix, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / f"video.{suffix}", moving(), codec, pix_fmt, **options)
    full = pixels(decode_all(path))
    assert num_frames(path) == len(full)
    for start in range(len(full)):
        stop = min(start + 5, len(full))
        assert np.array_equal(read_video(path, start, stop, 2), full[start:stop:2])


def test_dropped_pictures_are_not_counted(tmp_path):
    # MPEG-4 may store "nothing changed" as an empty picture, for which decoders give no frame.
    still = np.repeat(moving(1), 30, 0)
    path = encode(tmp_path / "still.avi", still, "mpeg4")
    assert num_frames(path) == len(decode_all(path)) == len(read_video(path))


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    path = encode(tmp_path / "long.mp4", np.concatenate([moving()] * 3), "libx264", x264_params="open-gop=0")
    assert num_frames(path) == 120
    decoded = []
    real = container._decode

    def counting(*args):
        for frame in real(*args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(container, "_decode", counting)
    read_video(path, 100, 104)
    assert len(decoded) <= 8 + 4  # a group of pictures and the window


def files(folder, *patterns):
    return sorted(f for pattern in patterns for f in folder.glob(pattern))


def test_real_files_are_exact(video_data):
    paths = files(video_data, "videos/*", "ucf101/UCF-101/*/*.avi", "metaworld/test/h*", "damaged/decord_v*",
                  "damaged/decord_u*", "damaged/*.gif", "damaged/moviepy_b*")
    assert len(paths) >= 15
    rng = np.random.default_rng(0)
    for path in paths:
        full = decode_all(path)
        n = len(full)
        assert num_frames(path) == n, path
        for start in {0, max(0, n - 4), *rng.integers(0, n, 3).tolist()}:
            got = read_video(path, start, min(n, start + 4))
            assert np.array_equal(got, pixels(full[start:start + 4])), (path, start)


def test_rotation_by_metadata_is_applied(video_data):
    upright, turned = (read_video(video_data / f"damaged/decord_video_{a}.mov", 0, 1)[0] for a in ("0", "90"))
    assert upright.shape == (320, 568, 3) and turned.shape == (568, 320, 3)


def test_the_best_of_several_streams_is_read(video_data):
    assert read_video(video_data / "videos/torchcodec_nasa_13013.mp4", 0, 1).shape[1:3] == (270, 480)


@pytest.mark.parametrize("name", ["decord_corrupted.mp4", "moviepy_empty_result.webm"])
def test_damaged_files_give_one_line(video_data, name):
    with pytest.raises(ValueError, match=f"{name}: damaged.*data.on_error=skip") as error:
        read_video(video_data / "damaged" / name)
    assert "\n" not in str(error.value)


def test_the_sound_part_of_a_damaged_file_is_exact(video_data):
    path = video_data / "damaged/decord_corrupted.mp4"
    with av.open(str(path)) as file:
        frames = file.decode(video=0)
        first = np.stack([next(frames).to_ndarray(format="rgb24") for _ in range(8)])
    assert np.array_equal(read_video(path, 0, 8), first)


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_broken_bytes_do_not_pass_as_a_video(tmp_path, video_data, at):
    data = bytearray((video_data / "ucf101/UCF-101/Biking/v_Biking_g05_c02.avi").read_bytes())
    where = int(at * len(data))
    data[where:where + 4096] = bytes(4096)
    (tmp_path / "broken.avi").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_video(tmp_path / "broken.avi")


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_cut_files_do_not_yield_wrong_frames(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    encode(whole, moving(), "mpeg4")
    full = read_video(whole)
    data = whole.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[:int(len(data) * 0.6)])
    try:
        cut = read_video(tmp_path / f"cut{suffix}")
    except ValueError as error:
        assert "damaged" in str(error)
    else:
        assert np.array_equal(cut, full[:len(cut)])


def test_a_replaced_file_is_indexed_again(tmp_path):
    path = tmp_path / "video.mp4"
    write_mp4(path, moving(5))
    assert num_frames(path) == 5
    write_mp4(path, moving(9))
    assert num_frames(path) == 9


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


# --- writing -------------------------------------------------------------------------------------------------

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


def test_gif_keeps_every_frame_also_where_nothing_moves(tmp_path):
    few = (moving(6) // 64 * 64).repeat(2, axis=0)  # few colours, so that the palette is exact
    write_gif(tmp_path / "video.gif", few)
    back = read_video(tmp_path / "video.gif")
    assert back.shape == few.shape and np.abs(back.astype(int) - few).mean() < 2
    with Image.open(tmp_path / "video.gif") as image:
        assert image.n_frames == 12 and image.info["duration"] == 100 and image.info["loop"] == 0


def test_grey_videos_can_be_written(tmp_path):
    grey = moving(4)[..., :1]
    for write, name in ((write_mp4, "g.mp4"), (write_gif, "g.gif")):
        write(tmp_path / name, grey)
        assert np.abs(read_video(tmp_path / name).astype(int) - grey).mean() < 3


def test_png_is_lossless(tmp_path):
    image = moving(1)[0]
    write_png(tmp_path / "image.png", image)
    assert np.array_equal(read_video(tmp_path / "image.png")[0], image)


def test_grid_places_each_video_and_holds_the_shorter():
    videos = [np.full((t, 4, 6, 3), 10 * t, np.uint8) for t in (1, 2, 3)]
    grid = grid_frames(videos, columns=2, pad=1)
    assert grid.shape == (3, 9, 13, 3)
    assert (grid[2, :4, :6] == 10).all() and (grid[2, :4, 7:] == 20).all() and (grid[2, 5:, :6] == 30).all()
    assert (grid[:, 5:, 7:] == 255).all()


def test_strip_marks_known_frames():
    video = np.full((6, 4, 5, 3), 7, np.uint8)
    image = strip([video, video[:3]], every=2, known=[True, False, False, False, False, False], pad=2)
    assert image.shape == (2 * 6 + 2, 3 * 7 + 2, 3)
    assert (image[2:6, 2:7] == 7).all() and tuple(image[0, 0]) == (220, 40, 40)
    assert (image[2:6, 9:14] == 7).all() and (image[0, 10] == 255).all()
    assert (image[8:12, 16:21] == 255).all()  # the second video has ended
