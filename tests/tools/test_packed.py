"""The reader of prepared sets: the right frames, no other bytes, no copy of the index in any process."""

import builtins
import json
import pickle
import time
import tracemalloc

import av
import numpy as np
import pytest
from media import moving, names, put, save

from tools import packed
from tools.fit import fit
from tools.pack import PackConfig, make_plan, write
from tools.packed import FORMAT, INDEX, NAMES, ROW, find_packed, side_file
from tools.raw import open_raw
from tools.sources import SOURCES
from tools.video import read_video


def prepare(src, out, dataset="VIDEOS", size=(16, 24), **settings):
    raw, cfg = open_raw(dataset, src), PackConfig(dataset, size, **{"min_frames": 1, **settings})
    return write(raw, make_plan(raw, cfg, 0), out, cfg, 0)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Three videos of 12 frames prepared as they are: train b, c and test a, a shard each; (folder, frames by name)."""
    root = tmp_path_factory.mktemp("packed")
    pixels = {name: moving(12, (16, 24)) // (n + 1) for n, name in enumerate("abc")}
    for name, frames in pixels.items():
        save(root / "raw" / ("test" if name == "a" else "train") / f"{name}.npy", frames)
    prepare(root / "raw", root / "out", shard_mb=0.01)
    return root / "out", pixels


@pytest.mark.parametrize("split, wanted", [("train", ["b", "c"]), ("test", ["a"]), ("all", ["a", "b", "c"])])
def test_sides_and_frames_come_back(sides, split, wanted):
    folder, pixels = sides
    source = find_packed(folder, split)
    assert sorted(names(source)) == wanted and len(source) == len(wanted)
    for i, name in enumerate(names(source)):
        assert source.num_frames(i) == 12 and source.origin(i).endswith(f"{name}.npy")
        np.testing.assert_array_equal(source.read(i), pixels[name])


@pytest.mark.parametrize("start, stop, step", [(0, 1, 1), (3, 9, 1), (0, 12, 5), (11, 12, 3), (2, None, 2)])
def test_any_window(sides, start, stop, step):
    folder, pixels = sides
    source = find_packed(folder, "test")
    frames = source.read(0, start, stop, step)
    np.testing.assert_array_equal(frames, pixels["a"][start:stop:step])
    assert frames.dtype == np.uint8 and frames.flags.writeable and frames.flags.c_contiguous


@pytest.mark.parametrize("start, stop, step", [(0, 13, 1), (-1, 3, 1), (4, 4, 1), (0, 4, 0)])
def test_a_window_outside_the_video_is_refused(sides, start, stop, step):
    with pytest.raises(ValueError, match=r"a: has 12 frames, got start="):
        find_packed(sides[0], "test").read(0, start, stop, step)


@pytest.mark.parametrize("start, stop, step", [(2, 7, 1), (0, 12, 4)])
def test_no_other_bytes_are_read(sides, monkeypatch, start, stop, step):
    source, read = find_packed(sides[0], "train"), []

    class Counting:
        def __init__(self, *args, **options):
            self.file = builtins.open(*args, **options)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, at):
            self.file.seek(at)

        def readinto(self, buffer):
            read.append(len(buffer))
            return self.file.readinto(buffer)

    monkeypatch.setattr(packed, "open", Counting, raising=False)
    frames = source.read(0, start, stop, step)
    assert sum(read) == frames.nbytes


def test_the_data_source_of_the_name_reads_a_prepared_folder(sides):
    folder, pixels = sides
    source = SOURCES.bind({"name": "VIDEOS", "split": "test"})(folder)
    np.testing.assert_array_equal(source.read(0), pixels["a"])


def test_a_copy_in_another_process_opens_the_files_again(sides):
    source = find_packed(sides[0], "train")
    before = [(source.name(i), source.read(i)) for i in range(2)]
    copy = pickle.loads(pickle.dumps(source))
    for i, (name, frames) in enumerate(before):
        assert copy.name(i) == name
        np.testing.assert_array_equal(copy.read(i), frames)


def test_a_large_index_takes_no_memory(tmp_path):
    count = 200_000  # rows of 32 bytes: 6.4 MB, and names beside
    index = np.zeros(count, ROW)
    lines = [b'["v%07d", "v.mp4"]\n' % i for i in range(count)]
    index["frames"], index["label"], index["width"] = np.arange(count), -1, len(lines[0])
    index["line"] = np.arange(count) * len(lines[0])
    (tmp_path / NAMES).write_bytes(b"".join(lines))
    np.save(tmp_path / INDEX, index)
    np.save(tmp_path / side_file("train"), np.arange(1, count, 2, dtype=np.int32))
    (tmp_path / "manifest.json").write_text(json.dumps({
        "format": FORMAT, "dataset": "VIDEOS", "size": [2, 2], "channels": 3, "videos": count, "classes": [],
        "sides": {"train": count // 2}, "shards": []}))
    tracemalloc.start()
    try:
        source = find_packed(tmp_path, "train")
        assert len(source) == count // 2 and source.num_frames(99_999) == 199_999 and source.name(7) == "v0000015"
        copy = pickle.dumps(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(copy) < 1000 and peak < 300_000


def test_labels(tmp_path):
    class Labelled:
        classes, notes, channels = ["run", "walk"], [], 3

        def __len__(self):
            return 2

        def video(self, i):
            from tools.raw import RawVideo
            return RawVideo(f"v{i}", f"v{i}.avi", ("train",), label=(1, -1)[i])

        def num_frames(self, i):
            return 3

        def read(self, i, start, stop):
            return np.zeros((stop - start, 4, 4, 3), np.uint8)

    cfg = PackConfig("KTH", (4, 4), min_frames=1)
    write(Labelled(), make_plan(Labelled(), cfg, 0), tmp_path / "out", cfg, 0)
    source = find_packed(tmp_path / "out", "train")
    assert [source.label(i) for i in range(2)] == [1, None] and source.classes == ("run", "walk")


def test_folds(tmp_path):
    lists = {"train01": "a b", "test01": "c", "train02": "c", "test02": "a b", "train03": "a", "test03": "b c"}
    for name in "abc":
        put(tmp_path / f"UCF-101/Run/v_Run_g01_c0{'abc'.index(name)}.npy", length=4)
    (tmp_path / "UCF-101/ucfTrainTestlist").mkdir()
    for side, members in lists.items():
        text = "".join(f"Run/v_Run_g01_c0{'abc'.index(m)}.avi\n" for m in members.split())
        (tmp_path / f"UCF-101/ucfTrainTestlist/{side[:-2]}list{side[-2:]}.txt").write_text(text)
    prepare(tmp_path / "UCF-101", tmp_path / "out", "UCF101")
    for side, members in lists.items():
        source = find_packed(tmp_path / "out", side[:-2], fold=int(side[-1]))
        assert [n[-1] for n in names(source)] == [str("abc".index(m)) for m in members.split()]


def test_val_is_the_test_side_where_there_is_no_other(sides, tmp_path):
    folder, _ = sides
    manifest = json.loads((folder / "manifest.json").read_text())
    for path in folder.iterdir():
        (tmp_path / path.name.replace("side-test", "side-val")).write_bytes(path.read_bytes())
    manifest["sides"]["val"] = manifest["sides"].pop("test")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert names(find_packed(tmp_path, "test")) == ["a"]


def test_an_empty_side_names_the_way_out(tmp_path):
    put(tmp_path / "raw/train/a.npy")
    prepare(tmp_path / "raw", tmp_path / "out")
    with pytest.raises(ValueError, match=r"test side is empty .prepared sides: train .1..; use data.split=all"):
        find_packed(tmp_path / "out", "test")


def test_other_folders_are_none_of_ours(tmp_path):
    assert find_packed(tmp_path / "absent", "all") is None and find_packed(tmp_path, "all") is None
    for text in ('{"name": "an app"}', "[1]", "no json"):
        (tmp_path / "manifest.json").write_text(text)
        assert find_packed(tmp_path, "all") is None


@pytest.mark.parametrize("damage, why", [
    (lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text()[:-9]), "manifest.json: cannot be read"),
    (lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace("packed/1", "packed/9")),
     'has the format "triplane-video/packed/9", wanted'),
    (lambda f: (f / "manifest.json").write_text('{"format": "triplane-video/packed/1"}'), "manifest.json: is damaged"),
    (lambda f: (f / "shard-00001.bin").unlink(), "shard-00001.bin: is missing"),
    (lambda f: (f / "shard-00001.bin").write_bytes(b"short"), "shard-00001.bin: has 5 bytes, wanted"),
    (lambda f: (f / "index.npy").write_bytes((f / "index.npy").read_bytes()[:-40]), "index.npy: is damaged"),
    (lambda f: np.save(f / "index.npy", np.zeros(2, ROW)), "index.npy: holds .2,. rows, the manifest says 3"),
    (lambda f: (f / "side-train.npy").unlink(), "side-train.npy: is damaged or missing"),
    (lambda f: ((f / "manifest.json").unlink(), (f / "plan.json").write_text("{}")), "is not finished; run the same")])
def test_a_broken_folder_is_told_in_one_line(sides, tmp_path, damage, why):
    for path in sides[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(ValueError, match=why) as caught:
        find_packed(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_a_shard_that_shrinks_while_it_is_read_is_told(sides, tmp_path):
    for path in sides[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = find_packed(tmp_path, "test")
    shard = next(p for p in tmp_path.glob("shard-*.bin") if p.read_bytes() == sides[1]["a"].tobytes())
    shard.write_bytes(shard.read_bytes()[:5 * 16 * 24 * 3])
    np.testing.assert_array_equal(source.read(0, 0, 5), sides[1]["a"][:5])  # what is there is read
    with pytest.raises(ValueError, match="is cut short"):
        source.read(0, 0, 6)


def test_much_faster_than_the_real_avis(video_data, tmp_path):
    path = min(video_data.glob("ucf101/UCF-101/*/*.avi"), key=lambda p: p.stat().st_size)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / path.name).symlink_to(path)
    prepare(tmp_path / "raw", tmp_path / "out", size=(256, 256))
    source = find_packed(tmp_path / "out", "all")

    def seconds(read):
        times = []
        for start in (0, 20, 40, 60, 80):
            began = time.perf_counter()
            frames = read(start)
            times.append(time.perf_counter() - began)
        return min(times), frames

    fast, packed_frames = seconds(lambda start: source.read(0, start, start + 16))
    slow, video_frames = seconds(lambda start: fit(read_video(path, start, start + 16), (256, 256)))
    np.testing.assert_array_equal(packed_frames, video_frames)
    assert slow > 3 * fast, f"{fast * 1e3:.2f} ms prepared, {slow * 1e3:.2f} ms from the AVI with PyAV {av.__version__}"
