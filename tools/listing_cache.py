"""What lies in a large tree of folders, kept on disk: on a network drive a million names take minutes to gather and sort.

The listing lies under the user's cache folder (VIDEO_CACHE names another, VIDEO_CACHE=off keeps none) and holds
the time of change of every folder that was walked through, since a file that comes, goes or is renamed changes
that of its folder. One that is not as it was makes the listing void.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tools.listing import Paths, Texts

LONG = 4096     # paths; shorter listings are made anew each time
_FRESH = 2.0    # seconds in which a second change might leave a folder's time as it is
_FORMAT = 1
_walks: list[dict[str, int]] = []  # of the listings under way: folder -> time of change


def walk(root: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk through folders and links to folders, of which a listing under way takes note."""
    for folder, folders, files in os.walk(root, followlinks=True):
        if _walks:
            _walks[-1][folder] = os.stat(folder).st_mtime_ns
        yield folder, folders, files


def kept(find: Callable[..., list[Path]]) -> Callable[..., list[Path]]:
    """Let a function that lists the tree below its first argument, with walk(), keep what it found on disk."""

    @functools.wraps(find)
    def found(root: str | os.PathLike, *options: Iterable[str], **named: Iterable[str]) -> list[Path]:
        asked = [os.path.abspath(root), [sorted(o) for o in options], sorted((k, sorted(v)) for k, v in named.items())]
        entry = _entry(json.dumps(asked))
        held = _load(entry) if entry else None
        if held is not None:
            return held
        begun, folders = time.time_ns(), {}
        _walks.append(folders)
        try:
            paths = find(root, *options, **named)
        finally:
            _walks.pop()
        if entry and len(paths) >= LONG and max(folders.values(), default=begun) < begun - _FRESH * 1e9:
            with contextlib.suppress(OSError):  # a full or read-only disk: it will be listed again
                _store(entry, paths, folders)
        return paths

    return found


def _entry(asked: str) -> Path | None:
    given = os.environ.get("VIDEO_CACHE")
    if given == "off":
        return None
    home = Path(given or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "triplane-video"))
    return home / "listings" / f"{hashlib.sha256(os.fsencode(asked)).hexdigest()[:32]}.npz"


def _load(entry: Path) -> list[Path] | None:
    try:
        with np.load(entry, allow_pickle=False) as held:
            if held["format"] != _FORMAT:
                return None
            folders = Texts.of(held["folders"], held["folder_ends"])
            times, paths = held["times"], Paths.of(held["paths"], held["path_ends"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, or torn: it will be replaced
        return None
    with ThreadPoolExecutor(16) as pool:  # a network answers many questions in the time of one
        now = list(pool.map(_changed, folders, chunksize=256))
    return list(paths) if np.array_equal(now, times) else None


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _store(entry: Path, paths: list[Path], folders: dict[str, int]) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    table, names = Paths(paths), Texts(folders)
    handle, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")  # a name of its own for every process
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, format=_FORMAT, paths=table.bytes, path_ends=table.ends, folders=names.bytes, folder_ends=names.ends,
                     times=np.array(list(folders.values()), np.int64))
        os.replace(temporary, entry)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
