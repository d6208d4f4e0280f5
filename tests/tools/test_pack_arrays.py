"""Numbers that come with videos stay with them through preparing."""

import json
import pickle

import numpy as np
import pytest
from media import flat, names
from records import trajectory, write_records
from town import drive, put_town

from tools.pack import PackConfig, check, make_plan, write
from tools.packed import find_packed
from tools.raw import RawVideo, open_raw
from tools.sources import SOURCES

RNG = np.random.default_rng(0)
GIVEN = [{"action": RNG.normal(size=(t, 4)).astype(np.float32), "place": RNG.normal(size=(t + 1, 2))} for t in (6, 9, 7)]
GIVEN.insert(1, {})                            # a video that comes with nothing
GIVEN.insert(2, {"place": GIVEN[0]["place"]})  # or with one thing


class Numbered:
    """Videos with numbers, the odd ones on the test side; reading video `bad` fails."""
    classes, notes, channels = (), (), 1

    def __init__(self, given=GIVEN, bad=None, error=None):
        self.given, self.bad, self.error = given, bad, error or ValueError("damaged inside")

    def __len__(self):
        return len(self.given)

    def video(self, i):
        return RawVideo(f"v{i}", f"v{i}.avi", (("train", "test")[i % 2],))

    def num_frames(self, i):
        return 6

    def read(self, i, start, stop):
        if i == self.bad:
            raise self.error
        return np.zeros((stop - start, 4, 4, 1), np.uint8)

    def arrays(self, i):
        return self.given[i]


def prepare(raw, out, dataset="VIDEOS", size=(4, 4), **settings):
    cfg = PackConfig(dataset, size, channels=raw.channels, min_frames=1, **settings)
    return write(raw, make_plan(raw, cfg, 0), out, cfg, 0)


def same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("shard_mb", [512, 1e-4])  # one shard, and one a video
def test_every_video_keeps_its_own(tmp_path, shard_mb):
    manifest = prepare(Numbered(bad=3), tmp_path, shard_mb=shard_mb)
    assert manifest["arrays"] == ["action", "place"] and not list(tmp_path.glob("*.npz"))
    for split, kept in (("all", [0, 1, 2, 4]), ("train", [0, 2, 4]), ("test", [1])):
        source = pickle.loads(pickle.dumps(find_packed(tmp_path, split)))
        assert names(source) == [f"v{i}" for i in kept]
        for i, number in enumerate(kept):
            same(source.arrays(i), GIVEN[number])


def test_an_interrupted_preparation_loses_none(tmp_path):
    with pytest.raises(OSError, match="disk"):
        prepare(Numbered(bad=3, error=OSError("the disk is gone")), tmp_path / "out", shard_mb=1e-4)
    assert list((tmp_path / "out").glob("*.npz"))  # of the shards that were finished
    prepare(Numbered(), tmp_path / "out", shard_mb=1e-4)
    source = find_packed(tmp_path / "out", "all")
    for i in range(5):
        same(source.arrays(i), GIVEN[i])


def test_unlike_rows_are_told(tmp_path):
    other = [{"action": np.zeros((6, 4))}, {"action": np.zeros((6, 3))}]
    with pytest.raises(ValueError, match=r"action of video 1 is float64 of shape \(6, 3\), that of others .* \(6, 4\)"):
        prepare(Numbered(other), tmp_path)


def test_they_have_checksums_and_sizes(tmp_path):
    prepare(Numbered(), tmp_path)
    check(tmp_path, 1)
    rows = tmp_path / "array-place.npy"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"array-place\.npy has changed"):
        check(tmp_path, 1)
    np.save(rows, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"array-place.npy: has 3 rows and 5 ends, the manifest says 5 videos"):
        find_packed(tmp_path, "all")
    rows.unlink()
    with pytest.raises(ValueError, match=r"array-place\.npy: is damaged or missing"):
        find_packed(tmp_path, "all")


def test_sets_that_were_prepared_without_are_read(tmp_path):
    manifest = prepare(Numbered([{}, {}]), tmp_path)
    assert manifest["arrays"] == [] and not list(tmp_path.glob("array-*"))
    del manifest["arrays"]  # as earlier versions wrote it
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert find_packed(tmp_path, "all").arrays(0) == {}


def test_the_actions_of_bairs_records(tmp_path):
    made = [trajectory(seed)[0] for seed in range(2)]
    write_records(tmp_path / "softmotion30_44k/train/traj_0_to_255.tfrecords", made)
    prepare(open_raw("BAIR", tmp_path / "softmotion30_44k"), tmp_path / "out", "BAIR", (8, 8))
    times = np.arange(20)
    wanted = {"action": np.stack([times, 0 * times + 0.5, 0 * times - 1, 0 * times], 1).astype(np.float32),
              "endeffector_pos": np.stack([0 * times, 0 * times + 1, times], 1).astype(np.float32)}  # as records.py writes
    for folder in (tmp_path / "softmotion30_44k", tmp_path / "out"):
        source = SOURCES.bind({"name": "BAIR", "split": "train"})(folder)
        for i in range(2):
            same(source.arrays(i), wanted)


def test_the_actions_of_bairs_npz(tmp_path):
    actions = [RNG.normal(size=(5, 4)) for _ in range(2)]
    (tmp_path / "bair/train").mkdir(parents=True)
    for i, action in enumerate(actions):
        np.savez(tmp_path / f"bair/train/{i}.npz", aux1_image=flat(t=5), image=flat(t=5), action=action)
    prepare(open_raw("BAIR", tmp_path / "bair"), tmp_path / "out", "BAIR")
    source = find_packed(tmp_path / "out", "train")
    for i, action in enumerate(actions):
        same(source.arrays(i), {"action": action})


def test_the_places_of_carlas_drives(tmp_path):
    put_town(tmp_path / "raw", drives=4, length=7)
    np.save(tmp_path / "raw/coords_0.npy", np.zeros((7, 1)))  # no places
    manifest = prepare(open_raw("CARLA", tmp_path / "raw"), tmp_path / "out", "CARLA", (16, 16))
    assert manifest["dropped"] == {"damaged": 1} and "coords_0.npy: holds" in (tmp_path / "out/dropped.jsonl").read_text()
    source = find_packed(tmp_path / "out", "test")
    assert names(source) == ["video_2", "video_3"]
    for i in range(2):
        same(source.arrays(i), {"coords": drive(i + 2, 7)})
