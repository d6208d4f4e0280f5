"""Named weights: where they are looked for, and what speaks against a file."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from tools import weights
from tools.weights import WEIGHTS, Weights, check, weights_folder, weights_path

CONTENT = b"weights of a network"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The weights folder, in which "known" has a published checksum and "new" has none; torch's cache is empty."""
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    entries = {"known": Weights("a net", "known.pt", "https://host/known.pt", "page", "MIT", DIGEST, len(CONTENT)),
               "short": Weights("a net", "short.pt", "https://host/short.pt", "page", "MIT", DIGEST[:8]),
               "new": Weights("a net", "new.pt", "https://host/new.pt", "page", "MIT"),
               "torchs": Weights("a net", "torchs.pt", weights.TORCHVISION + "torchs.pt", "page", "MIT")}
    monkeypatch.setattr(weights, "WEIGHTS", entries)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refused(name):
    with pytest.raises(ValueError) as error:
        weights_path(name)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the registry --------------------------------------------------------------------------------------------

def test_the_names_that_metrics_ask_for_are_there():
    assert {"i3d", "i3d-styleganv", "c3d", "videomae", "lpips-alex", "lpips-vgg", "pvdm-ucf101", "pvdm-sky"} <= set(WEIGHTS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_entry_is_complete(name):
    entry = WEIGHTS[name]
    assert entry.url.startswith("https://") and entry.page.startswith("https://") and entry.what and entry.licence
    assert re.fullmatch(r"[0-9a-f]{64}|", entry.sha256) and (entry.size is None or entry.size > 1e6)
    assert name == "list" or name.islower()


def test_no_two_share_a_file():
    assert len({entry.file for entry in WEIGHTS.values()}) == len({entry.url for entry in WEIGHTS.values()}) == len(WEIGHTS)


@pytest.mark.parametrize("name", [name for name, entry in WEIGHTS.items() if entry.url.startswith(weights.TORCHVISION)])
def test_torchvision_puts_the_checksums_first_digits_into_the_name(name):
    assert WEIGHTS[name].sha256.startswith(Path(WEIGHTS[name].file).stem.split("-")[-1])


# --- where they lie ------------------------------------------------------------------------------------------

def test_the_folder_is_the_one_named_or_a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    monkeypatch.delenv("VIDEO_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "cache" / "triplane-video" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder().is_relative_to(Path.home() / ".cache")


def test_a_file_in_the_folder_is_found(folder):
    put(folder / "known.pt")
    assert weights_path("known") == folder / "known.pt"


def test_torchs_cache_is_looked_at_last_and_for_torchvisions_files_only(folder):
    cache = folder.parent / "torch" / "hub" / "checkpoints"
    put(cache / "torchs.pt")
    put(cache / "new.pt")
    assert weights_path("torchs") == cache / "torchs.pt"
    assert str(cache) not in refused("new")
    put(folder / "torchs.pt")
    assert weights_path("torchs") == folder / "torchs.pt"


def test_absent_weights_are_told_with_what_to_fetch_and_where_to_put_it(folder):
    said = refused("new")
    for part in ("--exp download --name new", "https://host/new.pt", str(folder / "new.pt")):
        assert part in said


def test_an_unknown_name_is_told_with_the_nearest(folder):
    assert 'did you mean "known"?' in refused("knwn")


# --- what speaks against a file ------------------------------------------------------------------------------

@pytest.mark.parametrize("name, content, words", [
    ("known", CONTENT[:-1], f"{len(CONTENT) - 1} bytes"),
    ("known", CONTENT[::-1], hashlib.sha256(CONTENT[::-1]).hexdigest()[:12]),
    ("short", CONTENT[::-1], DIGEST[:8]),
    ("new", b"\n<!DOCTYPE html><html>Quota exceeded</html>", "web page"),
])
def test_another_file_is_refused(folder, name, content, words):
    put(folder / f"{name}.pt", content)
    said = refused(name)
    assert words in said and f"--name {name}" in said
    assert weights_path(name, verify=False) == folder / f"{name}.pt"


@pytest.mark.parametrize("name", ["known", "short", "new"])
def test_a_file_that_changes_after_its_first_use_is_refused(folder, name):
    put(folder / f"{name}.pt")
    weights_path(name)
    put(folder / f"{name}.pt", CONTENT[::-1])
    os.utime(folder / f"{name}.pt", ns=(0, 0))
    assert "SHA-256" in refused(name)


def test_a_record_holds_the_checksum_and_its_removal_trusts_anew(folder):
    file = put(folder / "new.pt")
    assert check(file, weights.find("new"), "") == DIGEST == weights.read_record(file)["sha256"]
    put(file, CONTENT[::-1])
    os.utime(file, ns=(0, 0))
    assert weights.record_path(file).name in refused("new")
    weights.record_path(file).unlink()
    assert weights_path("new") == file


def test_a_file_that_was_checked_is_not_read_again(folder, monkeypatch):
    put(folder / "known.pt")
    weights_path("known")
    monkeypatch.setattr(weights, "file_hash", None)  # a call would be a TypeError
    assert weights_path("known")


def test_the_same_file_moved_or_copied_stays_good(folder):
    file = put(folder / "new.pt")
    weights_path("new")
    os.utime(file, ns=(5, 5))
    assert weights_path("new") == file
    assert weights.read_record(file)["mtime_ns"] == 5


def test_a_folder_that_takes_no_record_still_serves(folder, monkeypatch):
    def read_only(*_):
        raise PermissionError(13, "Permission denied")
    put(folder / "known.pt")
    monkeypatch.setattr(weights, "write_text", read_only)
    assert weights_path("known") == folder / "known.pt"


def test_a_damaged_record_is_told(folder):
    put(folder / "new.pt")
    weights.record_path(folder / "new.pt").write_text("{")
    assert "remove it" in refused("new")
