"""Writing a prepared set: what is planned, what is dropped, and what an interruption or damage leaves."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from media import flat, moving, names, put, put_frames, save
from records import trajectory, write_records

from tools import pack
from tools.pack import PackConfig, check, make_plan, write
from tools.packed import find_packed
from tools.raw import RawVideo, open_raw
from tools.writers import write_mp4


def prepare(src, out, dataset="VIDEOS", size=(8, 8), workers=0, **settings):
    raw, cfg = open_raw(dataset, src), PackConfig(dataset, size, **{"min_frames": 1, **settings})
    return write(raw, make_plan(raw, cfg, workers), out, cfg, workers)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Videos:
    """Videos of `lengths` frames, every pixel the number of the frame; reading from frame `bad` of a video on fails."""
    classes, notes, channels = (), (), 1

    def __init__(self, lengths, bad=None, error=None):
        self.lengths, self.bad, self.error = lengths, bad or {}, error or ValueError("damaged inside")

    def __len__(self):
        return len(self.lengths)

    def video(self, i):
        return RawVideo(f"v{i}", f"v{i}.avi", ("train",))

    def num_frames(self, i):
        if not self.lengths[i]:
            raise ValueError("no frame")
        return self.lengths[i]

    def read(self, i, start, stop):
        if stop > self.bad.get(i, stop):
            raise self.error
        return np.broadcast_to(np.arange(start, stop, dtype=np.uint8)[:, None, None, None], (stop - start, 4, 4, 1))


def pack_videos(videos, out, **settings):
    cfg = PackConfig("VIDEOS", (4, 4), channels=1, **{"min_frames": 5, **settings})
    return write(videos, make_plan(videos, cfg, 0), out, cfg, 0)


@pytest.mark.parametrize("size, resize, channels", [((16, 24), "crop", 3), ((8, 8), "crop", 3), ((9, 5), "stretch", 3),
                                                    ((8, 8), "pad", 1)])
def test_pixels_are_those_of_the_one_conversion(tmp_path, size, resize, channels):
    frames = moving(20, (16, 24))
    save(tmp_path / "raw/a.npy", frames)
    prepare(tmp_path / "raw", tmp_path / "out", size=size, resize=resize, channels=channels)
    np.testing.assert_array_equal(find_packed(tmp_path / "out", "all").read(0),
                                  pack.fit(frames, size, channels, resize))


@pytest.mark.parametrize("name", ["mp4", "frames", "tfrecord"])
def test_raw_formats(tmp_path, name):
    frames = flat(t=20, h=64, w=64)
    if name == "mp4":
        write_mp4(tmp_path / "raw/a.mp4", frames)
    elif name == "frames":
        put_frames(tmp_path / "raw/a", frames)
    else:
        record, frames, _ = trajectory(0)
        write_records(tmp_path / "raw/train/a.tfrecords", [record])
    prepare(tmp_path / "raw", tmp_path / "out", "BAIR" if name == "tfrecord" else "VIDEOS", size=(64, 64))
    packed = find_packed(tmp_path / "out", "train").read(0).astype(int)
    assert packed.shape == frames.shape and np.abs(packed - frames).max() <= (12 if name == "mp4" else 0)


def test_a_long_video_in_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "_BLOCK", 3 * 16)  # three frames of 4x4
    pack_videos(Videos([20, 9]), tmp_path / "out")
    source = find_packed(tmp_path / "out", "all")
    assert source.read(0)[:, 0, 0, 0].tolist() == list(range(20)) and source.read(1)[:, 3, 3, 0].tolist() == list(range(9))


def test_what_is_dropped_is_reported(tmp_path):
    manifest = pack_videos(Videos([9, 3, 0, 20, 5], bad={3: 15}), tmp_path / "out")
    source = find_packed(tmp_path / "out", "all")
    assert names(source) == ["v0", "v4"] and source.read(1)[:, 0, 0, 0].tolist() == list(range(5))
    assert manifest["dropped"] == {"damaged": 2, "too short": 1}
    report = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert report == [["v1", "v1.avi", "has 3 frames, wanted 5 (--min_frames)"], ["v2", "v2.avi", "no frame"],
                      ["v3", "v3.avi", "damaged inside"]]
    check(tmp_path / "out", 1)  # the half of v3 that was written is neither in the file nor in its checksum


@pytest.mark.parametrize("videos", [Videos([3, 4]), Videos([0]), Videos([9], bad={0: 1})])
def test_nothing_left_is_an_error(tmp_path, videos):
    with pytest.raises(ValueError, match=r"none of the \d videos can be used; the first, v0: "):
        pack_videos(videos, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_full_disk_is_no_damaged_video(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        pack_videos(Videos([9, 9], bad={1: 1}, error=OSError(28, "No space left on device")), tmp_path / "out")
    pack_videos(Videos([9, 9]), tmp_path / "out")  # with space, the same goes on
    assert len(find_packed(tmp_path / "out", "all")) == 2


def test_too_small_a_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"are to be written, but 0\.0 GB are free"):
        patch.setattr(pack.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        pack_videos(Videos([9]), tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard*"))
    pack_videos(Videos([9]), tmp_path / "out", min_frames=2)  # other settings, such as a smaller size, may follow


def test_shards_are_of_the_size_asked_for(tmp_path):
    pack_videos(Videos([10, 10, 10, 50, 10]), tmp_path / "out", shard_mb=20 * 16 / 2**20)  # twenty frames
    assert [p.stat().st_size // 16 for p in sorted((tmp_path / "out").glob("shard-*.bin"))] == [20, 10, 50, 10]
    assert [find_packed(tmp_path / "out", "all").read(i)[-1, 0, 0, 0] for i in range(5)] == [9, 9, 9, 49, 9]


def test_a_large_set_is_cut_for_many_processes():
    cfg = PackConfig("VIDEOS", (256, 256))
    sizes = [(i, 30 << 20) for i in range(1000)]
    assert len(pack._divide(sizes, cfg)) >= 64
    assert {len(shard) for shard in pack._divide(sizes * 10, cfg)} == {512 // 30, 10_000 % (512 // 30)} - {0}


def test_a_finished_set_is_left_alone_and_another_is_refused(tmp_path):
    put(tmp_path / "raw/a.npy")
    first = prepare(tmp_path / "raw", tmp_path / "out")
    before = contents(tmp_path / "out")
    assert prepare(tmp_path / "raw", tmp_path / "out") == first and contents(tmp_path / "out") == before
    for other in ({"size": (8, 9)}, {"resize": "stretch"}, {"channels": 1}, {"options": {"camera": "main"}}):
        with pytest.raises(ValueError, match="prepared from other videos or with other settings"):
            prepare(tmp_path / "raw", tmp_path / "out", **other)
    put(tmp_path / "raw/b.npy")
    with pytest.raises(ValueError, match="prepared from other videos"):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert contents(tmp_path / "out") == before


def interrupted(tmp_path):
    """A preparation of six shards that stopped in the fourth, with what a kill leaves."""
    videos = Videos([9] * 6, bad={3: 1}, error=OSError(5, "interrupted"))
    with pytest.raises(OSError, match="interrupted"):
        pack_videos(videos, tmp_path / "out", shard_mb=1e-4)
    (tmp_path / "out/shard-00003.bin.tmp").write_bytes(b"half")
    return tmp_path / "out"


def test_what_was_finished_is_not_made_again(tmp_path):
    out = interrupted(tmp_path)
    with pytest.raises(ValueError, match="its preparation is not finished"):
        find_packed(out, "all")
    times = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.bin")}
    assert len(times) == 3
    time.sleep(0.01)
    pack_videos(Videos([9] * 6), out, shard_mb=1e-4)
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    pack_videos(Videos([9] * 6), tmp_path / "whole", shard_mb=1e-4)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_finished_shard_that_was_cut_is_made_again(tmp_path):
    out = interrupted(tmp_path)
    (out / "shard-00001.bin").write_bytes(b"short")
    pack_videos(Videos([9] * 6), out, shard_mb=1e-4)
    check(out, 1)
    assert find_packed(out, "all").read(1)[:, 0, 0, 0].tolist() == list(range(9))


def test_other_settings_do_not_go_on(tmp_path):
    out = interrupted(tmp_path)
    for videos, settings in ((Videos([9] * 6), {"min_frames": 2}), (Videos([9] * 7), {})):
        with pytest.raises(ValueError, match="was begun from other videos or with other settings"):
            pack_videos(videos, out, **{"shard_mb": 1e-4, **settings})


def test_a_folder_of_other_files_is_not_touched(tmp_path):
    put(tmp_path / "out/mine.npy")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="holds other files"):
        pack_videos(Videos([9]), tmp_path / "out")
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match="is a file, wanted a folder"):
        pack_videos(Videos([9]), tmp_path / "out/mine.npy")


def test_two_at_once_are_refused(tmp_path):
    import multiprocessing
    entered, done = multiprocessing.Event(), multiprocessing.Event()
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "out", entered, done))
    holder.start()
    try:
        assert entered.wait(20)
        with pytest.raises(ValueError, match="another process is preparing it"):
            pack_videos(Videos([9]), tmp_path / "out")
    finally:
        done.set()
        holder.join()


def _hold(out, entered, done):
    with pack._claimed(out):
        entered.set()
        done.wait(20)


@pytest.mark.parametrize("damage, why", [
    (lambda f: _flip(f / "shard-00001.bin"), "1 of 6 files are wrong: shard-00001.bin has changed"),
    (lambda f: _flip(f / "index.npy"), "index.npy has changed"),
    (lambda f: _flip(f / "names.jsonl"), "names.jsonl has changed"),
    (lambda f: (f / "side-train.npy").unlink(), "side-train.npy is missing"),
    (lambda f: (f / "manifest.json").unlink(), "is no prepared set")])
def test_check_finds_any_damage(tmp_path, damage, why):
    pack_videos(Videos([9, 9]), tmp_path / "out", shard_mb=1e-4)
    assert check(tmp_path / "out", 2)["videos"] == 2
    damage(tmp_path / "out")
    with pytest.raises(ValueError, match=why):
        check(tmp_path / "out", 2)


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("setting", [{"size": (0, 4)}, {"size": (4, 4), "resize": "zoom"}, {"size": (4, 4), "channels": 2},
                                     {"size": (4, 4), "min_frames": 0}, {"size": (4, 4), "shard_mb": 0}])
def test_nonsense_is_refused(setting):
    with pytest.raises(ValueError, match=f"--{list(setting)[-1]} must be"):
        PackConfig("VIDEOS", **setting)


def test_a_prepared_set_can_be_prepared_again_smaller(tmp_path):
    put(tmp_path / "raw/train/a.npy", 7)
    put(tmp_path / "raw/test/b.npy", 9)
    prepare(tmp_path / "raw", tmp_path / "out")
    prepare(tmp_path / "out", tmp_path / "smaller", size=(4, 4))
    source = find_packed(tmp_path / "smaller", "test")
    assert names(source) == ["b"] and (source.read(0) == 9).all() and source.shape == (4, 4, 3)


def test_processes_write_the_same_bytes(tmp_path):
    for i in range(8):
        save(tmp_path / f"raw/{i}.npy", flat(i, t=6))
    for workers in (0, 2):
        prepare(tmp_path / "raw", tmp_path / f"by{workers}", workers=workers, shard_mb=1e-3)
    assert contents(tmp_path / "by0") == contents(tmp_path / "by2")
