"""Videos in HDF5 files: MCVD's shards, which hold a dataset for every frame, and files of plain arrays.

An MCVD shard has a group `len` (video number -> frames) and for each video a group of its number, which holds the
frames "0", "1", ... as uint8 h w or h w 3. The numbers begin anew in each shard. Some shards also have groups
`target` (class) and `person`, and the first of UCF-101 the scalars `num_train` and `num_test`.
Of other files, every dataset t h w (grey) or t h w c is a video, and n t h w c is n of them.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from tools.tree import check_range

_OPEN = 32  # files that a process holds open


class _Handles:
    """Files that this process has open, the least recently used closed first.

    None stays open over a fork: parent and child would share the position in the file.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.files: OrderedDict[str, h5py.File] = OrderedDict()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_parent=self.lock.release,
                                after_in_child=self.lock.release)

    def _before_fork(self) -> None:
        self.lock.acquire()  # no other thread is reading
        self.close()

    def close(self) -> None:
        while self.files:
            self.files.popitem()[1].close()

    def get(self, path: str) -> h5py.File:
        if path not in self.files:
            self.files[path] = h5py.File(path, "r", locking="best-effort")  # network disks may not know locks
            if len(self.files) > _OPEN:
                self.files.popitem(last=False)[1].close()
        self.files.move_to_end(path)
        return self.files[path]


_handles = _Handles()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Give the open file; what goes wrong inside is told as its damage."""
    with _handles.lock:
        try:
            yield _handles.get(os.fspath(path))
        except (OSError, KeyError, RuntimeError) as error:  # what h5py raises depends on where the damage is
            reason = str(error).strip("'\"").splitlines()[0][:120]
            raise ValueError(f"{path}: damaged or not an HDF5 file of videos ({reason}); replace or remove it, "
                             f"or skip such videos with data.on_error=skip") from None


class _Array(NamedTuple):
    """A video in a file of plain arrays."""
    dataset: str
    row: int | None  # of a dataset n t h w c
    length: int


class _Shard:
    """One file: how many videos it holds, and where each of them is."""

    def __init__(self, path: Path):
        self.path = path
        with opened(path) as file:
            self.by_frame = isinstance(file.get("len"), h5py.Group)
            self.arrays = [] if self.by_frame else _arrays(file)
            self.count = len(file["len"]) if self.by_frame else len(self.arrays)
        if not self.count:
            raise ValueError(f"{path}: holds no video; wanted MCVD's layout (a group len, and a group of frames for "
                             f"each video), or whole numbers t h w c, t h w or n t h w c")

    def key(self, i: int) -> str:
        """Return what tells video i from the others of the file, good in a file name."""
        if self.by_frame:
            return f"{i:06d}"
        dataset, row, _ = self.arrays[i]
        return dataset.strip("/").replace("/", "_") + ("" if row is None else f"_{row:06d}")

    def length(self, i: int) -> int:
        if not self.by_frame:
            return self.arrays[i].length
        with opened(self.path) as file:
            return _number(file, f"len/{i}")

    def read(self, i: int, wanted: range) -> np.ndarray:  # t h w 3, or with the channels that there are
        with opened(self.path) as file:
            if self.by_frame:
                return _rgb(self.path, _frames(file, str(i), wanted))
            dataset, row, _ = self.arrays[i]
            span = slice(wanted.start, wanted[-1] + 1, wanted.step)
            return _rgb(self.path, file[dataset][span] if row is None else file[dataset][row, span])

    def value(self, group: str, i: int) -> int | None:
        """Return the number that a group such as `target` or `person` holds for video i."""
        with opened(self.path) as file:
            return _number(file, f"{group}/{i}") if self.by_frame and group in file else None


def _arrays(file: h5py.File) -> list[_Array]:
    found: list[_Array] = []

    def visit(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or not np.issubdtype(item.dtype, np.integer) or 0 in item.shape:
            return
        if item.ndim == 3 or (item.ndim == 4 and item.shape[-1] in (1, 3, 4)):
            found.append(_Array(name, None, item.shape[0]))
        elif item.ndim == 5 and item.shape[-1] in (1, 3, 4):
            found.extend(_Array(name, row, item.shape[1]) for row in range(item.shape[0]))

    file.visititems(visit)
    return found


# h5py's lower level: opening a dataset costs a third, and there is one for each frame.

def _number(file: h5py.File, name: str) -> int:
    value = np.empty((), np.int64)
    h5py.h5d.open(file.id, name.encode()).read(h5py.h5s.ALL, h5py.h5s.ALL, value)
    return int(value)


def _frames(file: h5py.File, video: str, wanted: range) -> np.ndarray:  # t h w, or t h w c
    group, frames = h5py.h5g.open(file.id, video.encode()), None
    for number, t in enumerate(wanted):
        stored = h5py.h5d.open(group, str(t).encode())
        if frames is None:
            frames = np.empty((len(wanted), *stored.shape), stored.dtype)
        if stored.shape != frames.shape[1:]:
            raise ValueError(f"{file.filename}: frame {t} of video {video} is {stored.shape}, others are {frames.shape[1:]}; "
                             f"they must have one shape")
        stored.read(h5py.h5s.ALL, h5py.h5s.ALL, frames[number])
    return frames


def _rgb(path: Path, frames: np.ndarray) -> np.ndarray:  # uint8 t h w 3
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.dtype != np.uint8 and (frames.dtype.kind not in "iu" or frames.min() < 0 or frames.max() > 255):
        raise ValueError(f"{path}: {frames.dtype} values {frames.min()}..{frames.max()}; wanted whole numbers 0..255")
    if frames.shape[-1] == 1:
        frames = np.repeat(frames, 3, axis=-1)
    return np.ascontiguousarray(frames[..., :3], dtype=np.uint8)


def _stem(path: Path, root: Path) -> str:
    """Folders too: MCVD's files of all sides and sizes are called shard_0001.hdf5."""
    relative = path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)
    return "_".join((*relative.parent.parts, relative.stem))


class Hdf5Source:
    """The videos of some HDF5 files, file by file. Nothing is kept of a video but its number.

    Args:
        paths: the files, in order.
        root: the folder they are named relative to.
        notes: remarks for the log.
        classes: the names of the classes, where the numbers that the files hold have names.

    Raises:
        ValueError: a file is damaged or holds no video.
    """

    def __init__(self, paths: Sequence[Path], root: Path, notes: Sequence[str] = (), *,
                 classes: Sequence[str] = ()):
        self.notes, self.classes = list(notes), tuple(classes)
        self._shards = [_Shard(path) for path in paths]
        self._stems = [_stem(path, root) for path in paths]
        self._ends = np.cumsum([shard.count for shard in self._shards])
        self._chosen: np.ndarray | None = None  # numbers over all files; None is all

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._chosen is None else len(self._chosen)

    def only(self, numbers: Sequence[int]) -> Hdf5Source:
        """Return the source of some of these videos."""
        some = copy.copy(self)
        some._chosen = np.array(numbers if self._chosen is None else self._chosen[list(numbers)], np.int64)
        return some

    def _at(self, i: int) -> tuple[int, int]:  # shard, number in it
        i = i if self._chosen is None else int(self._chosen[i])
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return shard, i - (int(self._ends[shard - 1]) if shard else 0)

    def num_frames(self, i: int) -> int:
        """Return the length that the file states for video i."""
        shard, inside = self._at(i)
        return self._shards[shard].length(inside)

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Read frames of video i, and no others -> uint8 t h w 3."""
        shard, inside = self._at(i)
        wanted = check_range(f"{self._shards[shard].path} video {inside}", self.num_frames(i), start, stop, step)
        return self._shards[shard].read(inside, wanted)

    @property
    def paths(self) -> list[Path]:
        """What each video is: its file, and in it its number or dataset."""
        return [self._shards[shard].path / self._shards[shard].key(inside) for shard, inside in map(self._at, range(len(self)))]

    def name(self, i: int) -> str:
        """Return FILE_NUMBER, or FILE_DATASET for a file of arrays."""
        shard, inside = self._at(i)
        return f"{self._stems[shard]}_{self._shards[shard].key(inside)}"

    def value(self, group: str, i: int) -> int | None:
        """Return what MCVD's files say of video i under `target` or `person`, or None."""
        shard, inside = self._at(i)
        return self._shards[shard].value(group, inside)

    def label(self, i: int) -> int | None:
        """Return the class of video i where the file states one."""
        label = self.value("target", i)
        return None if label is None or label < 0 else label

    def scalar(self, name: str) -> int | None:
        """Return a number that the first file holds at its root, such as UCF-101's num_train."""
        with opened(self._shards[0].path) as file:
            return int(file[name][()]) if name in file else None
