"""Small facts about large files, kept on disk, so that a second run need not read the files to learn them again.

One entry a file, in the hidden folder `.frame_index` beside it, or, where that may not be written, under the
user's cache folder; VIDEO_CACHE names another folder, and VIDEO_CACHE=off keeps nothing. An entry says of
which size and time of change the file was; it is written whole or not at all, so that any number of processes
may share it. What cannot be kept is learned again: a cache never fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import zlib

import numpy as np

FOLDER = ".frame_index"
_FORMAT = 1  # to be raised with any change of what callers keep: older entries are then written anew


def load(path: str, size: int, mtime: int) -> np.ndarray | None:
    """Return the int64 numbers kept for a file of this size and time of change, or None."""
    for entry in _entries(path):
        try:
            with open(entry, "rb") as file:
                numbers = np.frombuffer(zlib.decompress(file.read()), np.int64)
        except (OSError, zlib.error, ValueError):  # absent, or no entry: it will be replaced
            continue
        if numbers[:3].tolist() == [_FORMAT, size, mtime]:
            return numbers[3:]
    return None


def store(path: str, size: int, mtime: int, numbers: np.ndarray) -> None:
    """Keep int64 numbers for a file, at the first of its places that can be written."""
    content = zlib.compress(np.concatenate([[_FORMAT, size, mtime], numbers]).astype(np.int64).tobytes())
    for entry in _entries(path):
        with contextlib.suppress(OSError):
            if _replace(entry, content):
                return


def _entries(path: str) -> list[str]:
    """Where the entry of a file may lie. Beside it only its name counts, since whole datasets are moved."""
    folder, name = os.path.split(os.path.abspath(path))
    everywhere = _hash(os.path.join(folder, name))
    given = os.environ.get("VIDEO_CACHE")
    if given == "off":
        return []
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    away = os.path.join(given or os.path.join(home, "triplane-video"), "frames", everywhere[:2], everywhere)
    return [away] if given else [os.path.join(folder, FOLDER, _hash(name)), away]


def _hash(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _replace(entry: str, content: bytes) -> bool:
    folder = os.path.dirname(entry)
    if os.path.basename(folder) == FOLDER and not os.stat(os.path.dirname(folder)).st_mode & stat.S_IWUSR:
        return False  # whoever made the data read-only meant root too
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
    return True
