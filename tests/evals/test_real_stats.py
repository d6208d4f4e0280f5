"""Features of true videos are found again where all that decides them is as it was, and nowhere else."""

import os

import numpy as np
import pytest
from media import flat, save

from evals.choose import Shot
from evals.fvd import Row
from evals.pairs import open_set
from evals.real_stats import RealStats

LATER = 4e9  # seconds: long after any file here was written


@pytest.fixture
def shots(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "cache"))
    for i in range(3):
        save(tmp_path / "real" / f"v{i}.npy", flat(i))
    return [Shot(entry, 0, 4) for entry in open_set(tmp_path / "real", "real").entries]


def place(shots, network="net", **frames):
    return RealStats(shots, {"network": network, "ddof": 1}, frames)


def rows(n=3):
    return [Row(f"d{i}", f"v{i}", np.arange(4, dtype=np.float32) / 3 + i, i == 1) for i in range(n)]


def test_what_is_kept_is_found_again(shots):
    assert place(shots).load() is None and place(shots).store(rows(), LATER)
    found = RealStats(shots, {"network": "net", "ddof": 0}, {}).load()  # features know nothing of ddof
    assert [(row.digest, row.video, row.still) for row in found] == [(f"d{i}", f"v{i}", i == 1) for i in range(3)]
    assert all(np.array_equal(a.features, b.features) and a.features.dtype == np.float32 for a, b in zip(found, rows()))


def test_another_network_frames_or_windows_are_another_entry(shots):
    place(shots).store(rows(), LATER)
    others = [place(shots, "other"), place(shots, size=[8, 8]), place(shots[:2]), place([s._replace(start=1) for s in shots])]
    assert all(other.load() is None for other in others)


def test_a_file_that_changed_makes_the_entry_void(shots):
    place(shots).store(rows(), LATER)
    os.utime(shots[1].entry.path, (1, 1))
    assert place(shots).load() is None


def test_a_file_that_was_just_written_is_not_trusted(shots):
    changed = max(time for shot in shots for _, time in shot.entry.stamp()) / 1e9
    assert not place(shots).store(rows(), changed + 1) and place(shots).load() is None
    assert place(shots).store(rows(), changed + 3)


def test_a_torn_entry_counts_as_none(shots):
    place(shots).store(rows(), LATER)
    path = place(shots).path
    path.write_bytes(path.read_bytes()[:200])
    assert place(shots).load() is None and list(path.parent.iterdir()) == [path]


def test_off_keeps_nothing(shots, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", "off")
    assert not place(shots).store(rows(), LATER) and place(shots).load() is None
