"""The benchmark of long listings measures the listing that is kept, and memory that processes do not share."""

import json
import os
import sys
from pathlib import Path

import pytest

from tools import bench_listing, listing
from tools.bench_listing import measure


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_later_start_reads_the_kept_listing_and_processes_copy_nothing(cache):
    result = measure(12_000)
    files, prepared = result["files"], result["prepared"]
    assert len(list(cache.rglob("listings/*.npz"))) == 1
    assert 0 < files["kept_s"] < files["listed_s"] and 0 < prepared["kept_s"] < files["kept_s"]
    if sys.platform.startswith("linux"):
        assert files["worker_mb_lists"] > 0.7  # a page copied for each few names
        assert files["worker_mb"] < 0.5 and prepared["worker_mb"] < 0.5


def test_lists_that_stay_lists_are_found_out(cache, monkeypatch):
    monkeypatch.setattr(listing, "_LONG", 10 ** 9)
    files = measure(12_000)["files"]
    if sys.platform.startswith("linux"):
        assert files["worker_mb"] > 0.7


def test_the_command(capsys, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", "here")
    assert bench_listing.main(["30"]) == 0 and os.environ["VIDEO_CACHE"] == "here"
    assert json.loads(capsys.readouterr().out)["entries"] == 30
    for words in ([], ["0"], ["many"]):
        assert bench_listing.main(words) == 2 and "takes a number of entries" in capsys.readouterr().err


def test_the_tree_is_as_large_as_it_says(tmp_path):
    bench_listing._write_tree(tmp_path / "tree", 2500)
    folders = sorted(os.listdir(tmp_path / "tree"))
    assert folders == ["class0000", "class0001", "class0002"]
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "tree")) == 2500
    assert Path(tmp_path / "tree/class0002/v_Class_g0002499.avi").is_file()
