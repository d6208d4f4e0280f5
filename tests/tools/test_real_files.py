"""Videos as people have them, and damaged ones, against decoders that know nothing of our reader."""

import shutil
import subprocess

import av
import numpy as np
import pytest

from tools.clips import Clips
from tools.container import read_container
from tools.sources import SOURCES
from tools.video import num_frames, read_video, resize_crop

SOUND = [f"videos/{name}" for name in (
    "activitynet_v_GGSY1Qvo990.mp4", "decord_flipping_a_pancake.mkv", "mmaction2_demo.mp4", "mmaction2_test.mp4",
    "moviepy_pigs_in_a_polka.gif", "moviepy_transparent.webm", "torchcodec_bt709_full_range.mp4", "torchcodec_h264_10bits.mp4",
    "torchcodec_h265_video.mp4", "torchcodec_nasa_13013.mp4", "vidtok_example.mp4")] + [f"damaged/{name}" for name in (
        "decord_unordered.mov", "decord_video_0.mov", "decord_video_90.mov", "imageio_issue245.gif", "moviepy_bitmap.mp4")] + [
            f"ucf101/UCF-101/{name}.avi" for name in (
                "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01", "BaseballPitch/v_BaseballPitch_g01_c01",
                "Biking/v_Biking_g05_c02", "Punch/v_Punch_g03_c01")] + ["metaworld/test/hammer_4.mp4"]
UNSOUND = ["decord_corrupted.mp4", "moviepy_empty_result.webm"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Keep indexes out of the user's cache."""
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def by_command(path, size):
    """All frames by the command line of ffmpeg, which turns pictures by itself."""
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg on this machine")
    with av.open(str(path)) as file:
        stream = file.streams.best("video")
        number, name = stream.index, stream.codec_context.format.name
    eight = ["-vf", "format=yuv420p"] if name.endswith("10le") else []  # our way from 10 bits, too, is by 8
    run = subprocess.run(["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-map", f"0:{number}", "-fps_mode",
                          "passthrough", *eight, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    return np.frombuffer(run.stdout, np.uint8).reshape(-1, *size, 3)


@pytest.mark.parametrize("name", SOUND)
def test_windows_are_those_that_ffmpeg_shows(video_data, name):
    path = video_data / name
    size = read_video(path, 0, 1).shape[1:3]
    full = by_command(path, size)
    assert num_frames(path) == len(full)
    for start in {0, len(full) // 3, len(full) // 2, max(0, len(full) - 4)}:
        difference = read_video(path, start, min(start + 4, len(full))).astype(int) - full[start:start + 4]
        assert np.abs(difference).mean() < 0.1 and np.abs(difference).max() <= 8, start  # decoders differ by a rounding


@pytest.mark.parametrize("name", SOUND)
def test_any_window_is_that_of_the_whole_file(video_data, name):
    path = video_data / name
    full = read_container(path, range(num_frames(path)))
    with av.open(str(path)) as file:
        assert len(full) == sum(1 for _ in file.decode(file.streams.best("video")))
    rng = np.random.default_rng(0)
    for start in rng.integers(0, len(full), 4).tolist():
        stop, step = min(len(full), start + 9), int(rng.integers(1, 5))
        assert np.array_equal(read_video(path, start, stop, step), full[start:stop:step]), (start, stop, step)


def test_rotation_by_metadata_is_applied(video_data):
    upright, turned = (read_video(video_data / f"damaged/decord_video_{a}.mov", 0, 1)[0] for a in ("0", "90"))
    assert upright.shape == (320, 568, 3) and turned.shape == (568, 320, 3)


def test_the_best_of_several_streams_is_read(video_data):
    assert read_video(video_data / "videos/torchcodec_nasa_13013.mp4", 0, 1).shape[1:3] == (270, 480)


@pytest.mark.parametrize("name", UNSOUND)
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


def open_folder(path):
    return SOURCES.bind({"name": "VIDEOS"})(path)


def small(frames):
    return [image.tobytes() for image in resize_crop(frames, (12, 16))]


def test_training_over_damaged_files_skips_them_and_sees_true_frames_only(video_data, tmp_path):
    for name in ("damaged/decord_unordered.mov", "damaged/decord_video_90.mov", "damaged/imageio_issue245.gif",
                 *(f"damaged/{name}" for name in UNSOUND)):
        (tmp_path / name.rpartition("/")[2]).symlink_to(video_data / name)
    source = open_folder(tmp_path)
    true = [small(read_video(path)) for path in tmp_path.glob("*.mov")]
    true.append(small(read_video(tmp_path / UNSOUND[0], 0, 28)))  # what comes before the damage
    clips = Clips(source, frames=3, size=(12, 16), seed=0, on_error="skip")
    for g in range(2 * len(source)):
        clip = [image.numpy().tobytes() for image in clips[g]["frames"]]
        assert any(clip == video[i:i + 3] for video in true for i in range(len(video)))
    assert {"moviepy_empty_result", "imageio_issue245"} <= set(clips.skipped)  # empty; one frame
    assert "0 bytes" in clips.skipped["moviepy_empty_result"] and "has 1 frames" in clips.skipped["imageio_issue245"]


def test_without_skipping_the_damaged_file_is_named(video_data, tmp_path):
    (tmp_path / UNSOUND[1]).symlink_to(video_data / "damaged" / UNSOUND[1])
    with pytest.raises(ValueError, match=f"{UNSOUND[1]}: damaged or not a video"):
        Clips(open_folder(tmp_path), frames=3, size=(12, 16), seed=0)[0]
