"""Frame i is the i-th that decoding the whole file gives, whatever the codec; a broken file is one line of error."""

import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import av
import numpy as np
import pytest
from media import encode, flat, moving
from PIL import Image

from tools import container
from tools.container import CONTAINERS, file_index, forget_indexes, read_container
from tools.video import num_frames, read_video
from tools.writers import write_gif, write_mp4


def decode_all(path):
    """The definition of frame i: everything decoded, in the order in which it comes out."""
    with av.open(str(path)) as file:
        return list(file.decode(file.streams.best("video")))


def pixels(frames):  # t h w 3
    eight = [f.reformat(format="yuv420p") if f.format.name == "yuv420p10le" else f for f in frames]
    return np.stack([np.rot90(e.to_ndarray(format="rgb24"), f.rotation // 90) for e, f in zip(eight, frames)])


def error_of(path):
    """The line that a broken file gives."""
    with pytest.raises(ValueError) as error:
        read_container(path, range(file_index(path).count))
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


# --- every frame of every codec ------------------------------------------------------------------------------

CODECS = [
    ("mp4", "libx264", "yuv420p", {"x264_params": "open-gop=0"}),
    ("mp4", "libx264", "yuv420p", {"x264_params": "open-gop=1"}),
    ("mkv", "libx264", "yuv420p", {"x264_params": "open-gop=1"}),
    ("mp4", "libx264", "yuv420p", {"x264_params": "intra-refresh=1:bframes=0"}),
    ("mp4", "libx264", "yuv420p10le", {}),
    ("avi", "libx264", "yuv420p", {}),
    ("wmv", "libx264", "yuv420p", {}),
    ("ts", "libx264", "yuv420p", {}),
    ("flv", "libx264", "yuv420p", {"x264_params": "bframes=0"}),
    ("avi", "mpeg4", "yuv420p", {}),
    ("wmv", "msmpeg4", "yuv420p", {}),
    ("mpg", "mpeg2video", "yuv420p", {}),
    ("mkv", "mpeg2video", "yuv420p", {}),
    ("avi", "mpeg2video", "yuv420p", {}),
    ("webm", "libvpx", "yuv420p", {"auto_alt_ref": 1, "lag_in_frames": 16, "cpu_used": 8}),
    ("webm", "libvpx-vp9", "yuv420p", {"auto_alt_ref": 1, "lag_in_frames": 16, "cpu_used": 8}),
    ("avi", "mjpeg", "yuvj420p", {}),
]


@pytest.mark.parametrize("suffix, codec, pix_fmt, options", CODECS)
def test_any_window_of_any_codec_is_exact(tmp_path, suffix, codec, pix_fmt, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    clip = moving()
    halting = np.concatenate([clip[:14], np.repeat(clip[14:15], 6, 0), clip[14:]])  # encoders choose other pictures then
    path = encode(tmp_path / f"video.{suffix}", halting, codec, pix_fmt, **options)
    full = pixels(decode_all(path))
    assert num_frames(path) == len(full)
    for start in range(len(full)):
        stop = min(start + 5, len(full))
        assert np.array_equal(read_video(path, start, stop, 2), full[start:stop:2])


@pytest.mark.parametrize("suffix, codec, pix_fmt, error", [
    ("mp4", "libx264", "yuv420p", 4), ("mkv", "libx264", "yuv444p", 4), ("mkv", "libx264", "yuv420p10le", 4),
    ("avi", "mpeg4", "yuv420p", 12), ("avi", "mjpeg", "yuvj444p", 4), ("webm", "libvpx-vp9", "yuv420p", 8),
    ("mkv", "ffv1", "yuv444p", 2), ("avi", "rawvideo", "bgr24", 0),
])
def test_the_frames_are_those_that_were_written(tmp_path, suffix, codec, pix_fmt, error):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    frames = flat(t=20, h=48, w=64)
    path = encode(tmp_path / f"video.{suffix}", frames, codec, pix_fmt)
    assert file_index(path).count == 20
    back = read_container(path, range(3, 20, 4)).astype(int)
    assert np.abs(back - frames[3:20:4]).max() <= error


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_uneven_times_do_not_shift_the_frames(tmp_path, suffix):
    frames, times = flat(t=16), np.cumsum([0, 1, 1, 7, 1, 3, 1, 1, 20, 2, 1, 1, 1, 5, 1, 1])
    path = encode(tmp_path / f"video.{suffix}", frames, "libx264", times=times)
    assert file_index(path).count == 16
    for i in range(16):
        assert np.abs(read_container(path, range(i, i + 1))[0].astype(int) - frames[i]).max() <= 4


def test_the_index_tells_where_decoding_may_begin(tmp_path):
    path = encode(tmp_path / "video.mp4", moving(), "libx264", x264_params="open-gop=0:keyint=8:min-keyint=8:scenecut=0")
    index = file_index(path)
    assert index.count == len(index.times) == 40 and index.keys.tolist() == [0, 8, 16, 24, 32]
    assert len(set(np.diff(index.times))) == 1 and np.diff(index.times)[0] > 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_key_frames_are_numbered_as_they_are_shown(tmp_path, suffix):
    # In an open group, pictures that are shown before the key frame are stored after it.
    path = encode(tmp_path / f"video.{suffix}", moving(), "libx264", x264_params="open-gop=1:b-adapt=0:scenecut=0")
    shown = decode_all(path)
    assert file_index(path).keys.tolist() == [i for i, frame in enumerate(shown) if frame.key_frame]
    assert file_index(path).times.tolist() == [frame.pts for frame in shown]


def test_dropped_pictures_are_not_counted(tmp_path):
    # MPEG-4 may store "nothing changed" as an empty picture, for which decoders give no frame.
    still = np.repeat(moving(1), 30, 0)
    path = encode(tmp_path / "still.avi", still, "mpeg4")
    assert num_frames(path) == len(decode_all(path)) == len(read_video(path))
    not_coded = bytes.fromhex("000001b65f9f")
    with av.open(str(encode(tmp_path / "whole.avi", moving(24), "mpeg4", bf=0))) as whole, \
            av.open(str(tmp_path / "dropped.avi"), "w") as dropped:
        stream = dropped.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(p for p in whole.demux() if p.size):
            if number in (5, 10, 11):
                still = av.Packet(not_coded)
                still.pts, still.dts, still.time_base = packet.pts, packet.dts, packet.time_base
                packet = still
            packet.stream = stream
            dropped.mux(packet)
    full = decode_all(tmp_path / "dropped.avi")
    assert len(full) == 21 == num_frames(tmp_path / "dropped.avi")
    assert np.array_equal(read_video(tmp_path / "dropped.avi", 9, 20), pixels(full[9:20]))


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that come out of decoders."""
    pictures, real = [], container._decode

    def counting(*args):
        for frame in real(*args):
            pictures.append(frame.pts)
            yield frame

    monkeypatch.setattr(container, "_decode", counting)
    return pictures


def test_only_what_is_needed_is_decoded(tmp_path, decoded):
    path = encode(tmp_path / "long.mp4", np.concatenate([moving()] * 3), "libx264", x264_params="open-gop=0")
    assert num_frames(path) == 120 and not decoded
    read_video(path, 100, 104)
    assert len(decoded) <= 8 + 4  # a group of pictures and the window
    decoded.clear()
    read_video(path, 0, 3)
    assert len(decoded) == 3


def test_pictures_on_which_no_other_depends_are_passed_over(tmp_path, decoded):
    # One group, in which every second picture is of no use to any other.
    path = encode(tmp_path / "video.mp4", moving(40), "libx264", bf=1,
                  x264_params="keyint=100:scenecut=0:b-adapt=0:bframes=1:b-pyramid=0")
    full = pixels(decode_all(path))
    assert np.array_equal(read_video(path, 38, 40), full[38:])
    assert len(decoded) <= 19 + 2 + 1
    decoded.clear()
    assert np.array_equal(read_video(path, 0, 39, 2), full[:39:2])
    assert len(decoded) <= 20 + 1


UNTIMED = [("avi", "mpeg2video"), ("mpg", "mpeg2video")]  # pictures out of order, without times to be trusted


@pytest.mark.parametrize("suffix, codec", UNTIMED)
def test_on_the_way_from_the_start_spare_pictures_are_passed_over(tmp_path, decoded, suffix, codec):
    path = encode(tmp_path / f"video.{suffix}", moving(40), codec)  # two of three pictures are spare
    full = pixels(decode_all(path))
    assert len(file_index(path).times) == 0
    for start in range(40):
        decoded.clear()
        assert np.array_equal(read_video(path, start, min(start + 3, 40)), full[start:start + 3])
        assert len(decoded) <= max(start - 4, 0) / 2 + 4 + 3 + 3  # with those that come late


@pytest.mark.parametrize("suffix, codec", UNTIMED)
def test_stamps_that_come_out_otherwise_are_found_out(tmp_path, monkeypatch, suffix, codec):
    path = encode(tmp_path / f"video.{suffix}", moving(40), codec)
    index, full = file_index(path), read_container(path, range(40))
    for wrong in (index.stamps + 1, index.stamps[::-1], np.roll(index.stamps, 1), np.roll(index.stamps, 30)):
        monkeypatch.setattr(container, "file_index", lambda _, wrong=wrong: index._replace(stamps=wrong))
        assert np.array_equal(read_container(path, range(30, 36)), full[30:36])


def test_the_real_avi_of_one_key_frame(video_data, decoded):
    # Two pictures of the kind B in a packet of three, and empty packets that announce nothing: DivX's way.
    path = next(video_data.glob("ucf101/UCF-101/*/v_ApplyEyeMakeup_g01_c01.avi"))
    full = pixels(decode_all(path))
    assert len(file_index(path).stamps) == len(full) == 164
    for start in (3, 5, 37, 98, 99, 100, 150):
        decoded.clear()
        assert np.array_equal(read_video(path, start, start + 14, 2), full[start:start + 14:2])
        assert len(decoded) < start / 2.5 + 4 + 16


def test_the_file_is_read_no_further_than_its_frames_are_needed(tmp_path, monkeypatch):
    path = encode(tmp_path / "video.mp4", moving(40), "libx264", x264_params="keyint=100:scenecut=0:b-adapt=0:bframes=1")
    full, fed, real = pixels(decode_all(path)), [], container._packets

    def counting(*args):
        for packet in real(*args):
            fed.append(packet.pts)
            yield packet

    file_index(path)
    monkeypatch.setattr(container, "_packets", counting)
    assert np.array_equal(read_video(path, 0, 5), full[:5]) and len(fed) == 5
    assert file_index(path).whole


@pytest.mark.parametrize("suffix, codec", [("webm", "libvpx"), ("mkv", "mpeg2video"), ("flv", "flv")])
def test_codecs_that_are_counted_by_decoding_are_sought_in_too(tmp_path, decoded, suffix, codec):
    path = encode(tmp_path / f"video.{suffix}", moving(), codec, bf=0)
    assert num_frames(path) == len(decoded) == 40
    full = pixels(decode_all(path))
    decoded.clear()
    assert np.array_equal(read_video(path, 33, 35), full[33:35])
    assert len(decoded) <= 8 + 2


def test_the_index_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "cache"))
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 96, 3), dtype=np.uint8)
    long, counted, untimed, small = (encode(tmp_path / name, frames, codec, **options) for name, frames, codec, options in (
        ("long.mp4", noise, "libx264", {"crf": 10}), ("counted.webm", noise, "libvpx", {"b": "8M", "cpu_used": 8}),
        ("untimed.avi", noise, "mpeg2video", {"b": "8M"}), ("small.mp4", flat(), "libx264", {})))
    made = [file_index(path) for path in (long, counted, untimed, small)]
    forget_indexes()  # as a second run begins
    monkeypatch.setattr(container, "_make_index", lambda path: pytest.fail(f"{path} was read once more"))
    for path, index in zip((long, counted, untimed), made):
        again = file_index(path)
        assert again.count == index.count == 24 and again.whole is index.whole
        assert all(np.array_equal(a, b) for a, b in zip(again, index))
        assert again.times.dtype == index.times.dtype == np.int64
    with pytest.raises(pytest.fail.Exception):  # not worth a file of its own
        file_index(small)
    encode(long, noise[:20], "libx264", crf=10)
    monkeypatch.undo()
    assert num_frames(long) == 20


def test_a_seek_that_ends_elsewhere_is_found_out(tmp_path, monkeypatch):
    path = encode(tmp_path / "video.mp4", moving(), "libx264", x264_params="open-gop=0")
    index, full = file_index(path), read_container(path, range(40))
    for wrong in (1, 500, -500):  # less than a frame
        monkeypatch.setattr(container, "file_index", lambda _, wrong=wrong: index._replace(times=index.times + wrong))
        assert np.array_equal(read_container(path, range(30, 36)), full[30:36])


def test_threads_do_not_disturb_each_other(tmp_path):
    paths = [encode(tmp_path / f"{n}.mp4", flat(n, t=24, h=16 + 2 * n), "libx264") for n in range(4)]
    jobs = [(path, range(start, start + 3)) for start in range(0, 21, 3) for path in paths]
    alone = [read_container(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: read_container(*job), jobs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together))


def test_a_replaced_file_is_indexed_again(tmp_path):
    path = tmp_path / "video.mp4"
    write_mp4(path, moving(5))
    assert num_frames(path) == 5
    write_mp4(path, moving(9))
    assert num_frames(path) == 9


def test_a_title_in_another_encoding_is_no_damage(tmp_path):
    path = tmp_path / "video.avi"
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "Xpreuve"
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuv420p"
        for image in flat():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    data = path.read_bytes()
    assert data.count(b"Xpreuve") == 1
    path.write_bytes(data.replace(b"Xpreuve", "Épreuve".encode("latin-1")))
    assert len(read_container(path, range(file_index(path).count))) == 4


# --- broken files --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", sorted(CONTAINERS))
@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>\n" * 40])
def test_empty_and_foreign_files_tell_their_size(tmp_path, suffix, content):
    path = tmp_path / f"video{suffix}"
    path.write_bytes(content)
    text = error_of(path)
    assert "damaged or not a video" in text and f"{len(content)} bytes" in text and "data.on_error=skip" in text


def test_a_missing_file_and_one_without_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"gone.mp4: no such video file; check the path"):
        file_index(tmp_path / "gone.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for number in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert "has no video stream; give a file with pictures" in error_of(tmp_path / "sound.mp4")


@pytest.mark.parametrize("write", [write_mp4, write_gif, lambda path, frames: encode(path, frames, "mjpeg", "yuvj420p")],
                         ids=["mp4", "gif", "avi"])
def test_wherever_a_file_is_cut_no_wrong_frame_comes_out(tmp_path, write, request):
    suffix = request.node.callspec.id
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    write(whole, flat(t=24))
    full, data = read_video(whole), whole.read_bytes()
    refused = 0
    for size in {*range(0, len(data), len(data) // 60), *range(len(data) - 20, len(data))}:
        path.write_bytes(data[:size])
        try:
            part = read_video(path)
        except ValueError as error:
            assert re.match(f"{path}: (damaged or not a video|has no video stream)", str(error)), size
            refused += 1
        else:  # at the border of two frames, or in the file's appendix
            assert np.array_equal(part, full[:len(part)]), size
    assert refused > 20


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


@pytest.mark.parametrize("suffix, codec", [("avi", "mpeg4"), ("mp4", "libx264")])
def test_bytes_broken_inside_a_picture_do_not_pass_as_a_video(tmp_path, suffix, codec):
    path = encode(tmp_path / f"video.{suffix}", moving(12, (128, 160)), codec, b=4_000_000)
    data = path.read_bytes()
    places = range(8000, len(data) - 4000, len(data) // 40)  # between the header and the table at the end
    refused = 0
    for where in places:
        path.write_bytes(data[:where] + bytes(700) + data[where + 700:])
        try:
            read_video(path)
        except ValueError as error:
            assert re.match(f"{path}: damaged or not a video .*frame [0-9]+", str(error))
            refused += 1
    assert len(places) > 10 and refused > 0.7 * len(places)  # a decoder cannot notice everything


def test_a_file_that_ends_before_its_announced_length_is_damaged(tmp_path, monkeypatch):
    path = encode(tmp_path / "video.mp4", flat(t=20), "libx264", x264_params="open-gop=0")
    index = file_index(path)
    more = np.append(index.times, index.times[-1] + (1 + np.arange(5)) * np.diff(index.times)[0])
    monkeypatch.setattr(container, "file_index", lambda _: index._replace(count=25, times=more))
    for start in (0, 19):
        with pytest.raises(ValueError, match=r"damaged or not a video .it ends after frame 19, although it announces 25"):
            read_container(path, range(start, 22))


def test_a_change_of_size_inside_a_file_is_told(tmp_path):
    path = tmp_path / "video.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuvj420p"
        for number, size in enumerate([(24, 16), (24, 16), (32, 16)]):
            jpeg = BytesIO()
            Image.new("RGB", size).save(jpeg, format="JPEG")
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, 1 / stream.codec_context.framerate, number, number
            file.mux(packet)
    assert read_container(path, range(2)).shape == (2, 16, 24, 3)
    assert "frame 2 is (16, 32), the others (16, 24)" in error_of(path)
