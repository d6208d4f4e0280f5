"""What is kept of a file is found again, by any process, as long as the file is the same; a cache never fails."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tools import index_cache

NUMBERS = np.array([3, -1, 2**62, 0], np.int64)


@pytest.fixture
def video(tmp_path, monkeypatch):
    """A file in a folder that may be written, and a user's cache."""
    monkeypatch.delenv("VIDEO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    return str(tmp_path / "data" / "video.mp4")


def kept_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_numbers_come_back_for_the_same_file_only(video):
    assert index_cache.load(video, 10, 20) is None
    index_cache.store(video, 10, 20, NUMBERS)
    assert index_cache.load(video, 10, 20).tolist() == NUMBERS.tolist()
    for other in ((video, 11, 20), (video, 10, 21), (video + "x", 10, 20)):
        assert index_cache.load(*other) is None
    index_cache.store(video, 11, 20, NUMBERS[:1])  # the file was replaced, and so is its entry
    assert index_cache.load(video, 11, 20).tolist() == [3] and index_cache.load(video, 10, 20) is None


def test_data_are_left_alone(video, tmp_path):
    index_cache.store(video, 10, 20, NUMBERS)
    assert not list((tmp_path / "data").iterdir()) and len(kept_in(tmp_path / "home")) == 1
    assert index_cache.load(video, 10, 20) is not None


def test_video_cache_names_the_place_or_none(video, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", "off")
    index_cache.store(video, 10, 20, NUMBERS)
    assert not kept_in(tmp_path) and index_cache.load(video, 10, 20) is None
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "mine"))
    index_cache.store(video, 10, 20, NUMBERS)
    assert kept_in(tmp_path) == kept_in(tmp_path / "mine") and index_cache.load(video, 10, 20) is not None


def test_paths_are_the_same_however_they_are_written(video, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "mine"))
    index_cache.store(video, 10, 20, NUMBERS)
    monkeypatch.chdir(tmp_path)
    assert index_cache.load(os.path.join("data", "video.mp4"), 10, 20) is not None


@pytest.mark.parametrize("content", [b"", b"torn", b"\x78\x9c\x01"])
def test_a_torn_entry_is_none(video, tmp_path, content):
    index_cache.store(video, 10, 20, NUMBERS)
    entry, = kept_in(tmp_path)
    whole = entry.read_bytes()
    for broken in (content, whole[:-3]):
        entry.write_bytes(broken)
        assert index_cache.load(video, 10, 20) is None
    index_cache.store(video, 10, 20, NUMBERS)
    assert index_cache.load(video, 10, 20).tolist() == NUMBERS.tolist()


def test_nowhere_to_write_is_no_error(video, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "file"))
    index_cache.store(video, 10, 20, NUMBERS)
    assert index_cache.load(video, 10, 20) is None


def test_who_reads_while_others_write_sees_all_or_nothing(video, tmp_path):
    long = [np.full(20_000, writer) for writer in range(4)]

    def work(turn):
        if turn % 3 == 0:
            index_cache.store(video, 10, 20, long[turn % 4])
        seen = index_cache.load(video, 10, 20)
        return seen is not None and len(seen) == 20_000 and len(set(seen.tolist())) == 1

    index_cache.store(video, 10, 20, long[0])
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert len(kept_in(tmp_path)) == 1  # no temporary file is left
