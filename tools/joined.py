"""Several sources as one, and the source of any list of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from tools.fit import read_sized
from tools.hdf5 import Hdf5Source
from tools.tree import HDF5, FileSource


def open_files(paths: Iterable[Path], root: Path, notes: Sequence[str] = (), *,
               label: Callable[[Path], str | None] | None = None,
               classes: Sequence[str] | None = None) -> FileSource | Hdf5Source | Joined:
    """Open files and frame folders, each one video, and after them HDF5 files, each of which may hold many.

    Args:
        paths: at least one.
        root: the folder they are named relative to.
        notes: remarks for the log.
        label: tells the class of a file; of videos in HDF5 files, these tell themselves.
        classes: the classes in the order of their numbers.
    """
    paths = list(paths)
    shards = [path for path in paths if path.suffix.lower() in HDF5 and not path.is_dir()]
    inside = set(shards)
    files = [path for path in paths if path not in inside]
    parts: list[FileSource | Hdf5Source] = []
    if files:
        labels = [label(path) for path in files] if label else None
        labels = None if labels is None or None in labels else labels
        parts.append(FileSource(files, root, notes, labels=labels, classes=classes if labels else None))
    if shards:
        parts.append(Hdf5Source(shards, root, notes, classes=classes or ()))
    return parts[0] if len(parts) == 1 else Joined(parts, notes)


class Joined:
    """The videos of one source after those of the other.

    Args:
        parts: the sources.
        notes: remarks for the log.
    """

    def __init__(self, parts: Sequence[FileSource | Hdf5Source], notes: Sequence[str] = ()):
        self.notes = list(notes)
        self.classes = next((part.classes for part in parts if part.classes), ())
        self._parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        names = {part.name(i) for part in parts for i in range(len(part))}
        self._alike = len(names) < self._ends[-1]  # a.npy beside the dataset a.h5 holds

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, i: int) -> tuple[int, int]:  # part, number in it
        part = next(n for n, end in enumerate(self._ends) if i < end)
        return part, i - (self._ends[part - 1] if part else 0)

    def num_frames(self, i: int) -> int:
        """Return the length of video i."""
        part, inside = self._at(i)
        return self._parts[part].num_frames(inside)

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Read frames of video i -> uint8 t h w c."""
        part, inside = self._at(i)
        return self._parts[part].read(inside, start, stop, step)

    def read_sized(self, i: int, start: int, stop: int | None, step: int, size: tuple[int, int]) -> np.ndarray:
        """Read frames of video i, the centre of each scaled to (height, width)."""
        part, inside = self._at(i)
        return read_sized(self._parts[part], inside, start, stop, step, size)

    def name(self, i: int) -> str:
        """Return the name in its source, with the source's number where names would be alike."""
        part, inside = self._at(i)
        return f"{part}_" * self._alike + self._parts[part].name(inside)

    def label(self, i: int) -> int | None:
        """Return the class of video i, or None."""
        part, inside = self._at(i)
        return self._parts[part].label(inside)

    @property
    def paths(self) -> list[Path]:
        """What each video is."""
        return [path for part in self._parts for path in part.paths]
