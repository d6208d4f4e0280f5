"""What lies in a tree of folders, kept on disk: right after any change, and not gathered twice."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tools import listing_cache
from tools.listing_cache import kept, walk


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of two folders with a file each, an hour old, and a function that lists them and counts its calls."""
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing_cache, "LONG", 2)
    root = tmp_path / "data"
    for name in ("a/1.mp4", "b/2.mp4"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    (root / "empty").mkdir()
    calls = []

    @kept
    def find(root, also=()):
        calls.append(root)
        return sorted(Path(folder, name) for folder, _, files in walk(root) for name in files
                      if name.endswith((".mp4", *also)))

    age(root)
    return root, find, calls


def age(root, seconds=3600):
    """Let all folders have been changed so long ago."""
    then = time.time() - seconds
    for folder, _, _ in os.walk(root):
        os.utime(folder, (then, then))


def test_a_second_listing_is_read(tree):
    root, find, calls = tree
    first = find(root)
    assert find(root) == first == [root / "a/1.mp4", root / "b/2.mp4"] and len(calls) == 1


@pytest.mark.parametrize("change", [
    lambda root: (root / "a/3.mp4").touch(),
    lambda root: (root / "empty/3.mp4").touch(),  # a folder that gave nothing
    lambda root: (root / "b/2.mp4").unlink(),
    lambda root: (root / "b").rename(root / "c"),
    lambda root: (root / "c").symlink_to(root / "a"),
])
def test_any_change_is_seen(tree, change):
    root, find, calls = tree
    find(root)
    change(root)
    assert find(root) == sorted(Path(folder, f) for folder, _, files in os.walk(root, followlinks=True) for f in files)
    assert len(calls) == 2


def test_a_folder_that_may_change_again_in_the_same_instant_is_not_kept(tree):
    root, find, calls = tree
    age(root / "a", 0)
    find(root)
    find(root)
    assert len(calls) == 2


def test_other_questions_have_other_answers(tree):
    root, find, _ = tree
    (root / "a/1.txt").touch()
    age(root)
    assert len(find(root)) == 2 and len(find(root, also=[".txt"])) == 3 and len(find(root / "a", also={".txt"})) == 2
    assert len(find(root)) == 2 and len(find(root, also=[".txt"])) == 3


@pytest.mark.parametrize("content", [b"", b"PK torn", None])
def test_a_torn_listing_is_made_anew(tree, content):
    root, find, calls = tree
    find(root)
    (entry,) = Path(os.environ["VIDEO_CACHE"]).rglob("*.npz")
    entry.write_bytes(content if content is not None else entry.read_bytes()[:-40])
    assert len(find(root)) == 2 and len(calls) == 2
    assert len(find(root)) == 2 and len(calls) == 2


def test_a_listing_of_another_format_is_made_anew(tree):
    root, find, calls = tree
    find(root)
    (entry,) = Path(os.environ["VIDEO_CACHE"]).rglob("*.npz")
    np.savez(entry, **{**np.load(entry), "format": 99})
    assert len(find(root)) == 2 and len(calls) == 2


def test_nothing_is_kept_of_short_listings_or_where_it_is_not_wanted(tree, monkeypatch):
    root, find, calls = tree
    monkeypatch.setenv("VIDEO_CACHE", "off")
    find(root)
    find(root)
    monkeypatch.setenv("VIDEO_CACHE", str(root.parent / "cache"))
    monkeypatch.setattr(listing_cache, "LONG", 3)
    find(root)
    find(root)
    assert len(calls) == 4 and not list(root.parent.glob("cache/**/*.npz"))


def test_a_place_that_cannot_be_written_is_no_failure(tree, monkeypatch):
    root, find, calls = tree
    (root.parent / "file").touch()
    monkeypatch.setenv("VIDEO_CACHE", str(root.parent / "file"))
    assert find(root) == find(root) and len(calls) == 2
