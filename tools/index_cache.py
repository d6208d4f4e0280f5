"""Small facts about large files, kept on disk, so that a second run need not read the files to learn them again.

One entry a file, under the user's cache folder; VIDEO_CACHE names another folder, and VIDEO_CACHE=off keeps
nothing. Datasets are left as they are. An entry says of which size and time of change the file was; it is
written whole or not at all, so that any number of processes may share it. What cannot be kept is learned
again: a cache never fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zlib

import numpy as np

_FORMAT = 2  # to be raised with any change of what callers keep: older entries are then written anew


def load(path: str, size: int, mtime: int) -> np.ndarray | None:
    """Return the int64 numbers kept for a file of this size and time of change, or None."""
    entry = _entry(path)
    if entry is None:
        return None
    try:
        with open(entry, "rb") as file:
            numbers = np.frombuffer(zlib.decompress(file.read()), np.int64)
    except (OSError, zlib.error, ValueError):  # absent, or no entry: it will be replaced
        return None
    return numbers[3:] if numbers[:3].tolist() == [_FORMAT, size, mtime] else None


def store(path: str, size: int, mtime: int, numbers: np.ndarray) -> None:
    """Keep int64 numbers for a file."""
    entry = _entry(path)
    if entry is not None:
        with contextlib.suppress(OSError):
            _replace(entry, zlib.compress(np.concatenate([[_FORMAT, size, mtime], numbers]).astype(np.int64).tobytes()))


def _entry(path: str) -> str | None:
    given = os.environ.get("VIDEO_CACHE")
    if given == "off":
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:32]
    return os.path.join(given or os.path.join(home, "triplane-video"), "frames", name[:2], name)


def _replace(entry: str, content: bytes) -> None:
    folder = os.path.dirname(entry)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")  # a name of its own for every process
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's are for the owner alone, but data are shared
        os.replace(temporary, entry)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
