"""Find the videos of a folder, whatever its layout: files, frame folders, flat or nested, in natural order."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsort_keygen, natsorted

from tools.listing_cache import kept, walk
from tools.video import IMAGES, VIDEOS, num_frames, read_video

SPLITS = ("train", "test", "all")
HDF5 = {".h5", ".hdf5"}  # each may hold many videos; see tools.hdf5

_MAPPED = {".npy", ".pt"}
_MEMORY = 256 << 20  # bytes of decoded video that a process may keep

Size = tuple[int, int]  # height, width

_natural = natsort_keygen()


def natural(path: Path) -> tuple:
    """Sort key of a path: folder by folder, frame2 before frame10."""
    return tuple(_natural(part) for part in path.parts)


@kept
def find_videos(root: str | os.PathLike, ignore: Iterable[str] = (), also: Iterable[str] = ()) -> list[Path]:
    """List video files and frame folders at or below `root`, in natural order.

    A folder that holds images directly is one video, unless it holds video files too (then the images are
    thumbnails). Hidden entries are passed over, links are followed once.

    Args:
        root: a folder, or a single file.
        ignore: names of folders to pass over.
        also: suffixes of further files to list, such as HDF5.
    """
    root, kinds_of_file = Path(root), VIDEOS | set(also)
    if root.is_file():
        return [root] if root.suffix.lower() in kinds_of_file | IMAGES else []
    ignore, found, seen = set(ignore), [], set()
    for folder, folders, files in walk(root):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not f.startswith((".", "__")) and f not in ignore]
        kinds = {name: os.path.splitext(name)[1].lower() for name in files if not name.startswith(".")}
        videos = [Path(folder, name) for name, kind in kinds.items() if kind in kinds_of_file]
        found += videos
        if not videos and any(kind in IMAGES for kind in kinds.values()):
            found.append(Path(folder))
    return sorted(found, key=natural)


def describe(root: Path, limit: int = 5) -> str:
    """Say in a few words what a folder holds, for an error message."""
    if not root.exists():
        return "no such folder"
    if root.is_file():
        return f"a file of kind '{root.suffix}'"
    entries = sorted((e.name + "/" * e.is_dir() for e in os.scandir(root)), key=_natural)
    more = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return f"found {', '.join(entries[:limit])}{more}" if entries else "an empty folder"


def check_split(split: str) -> str:
    """Return the split if it is one."""
    if split not in SPLITS:
        raise ValueError(f'data.split must be one of {", ".join(SPLITS)}, got "{split}"')
    return split


def is_called(path: Path, names: Collection[str]) -> bool:
    """Tell whether a folder bears one of these names, whatever its case, dashes and underscores.

    MCVD's names count too: KTH64_h5 is called kth, and so is a single file UCF101_64.hdf5 called ucf101.
    """
    if not (path.is_dir() or path.suffix.lower() in HDF5):
        return False
    name = re.sub(r"[-_.]", "", path.absolute().name.lower())
    return any(re.fullmatch(known + r"(\d*(h5|hdf5))?", name) for known in names)


def child(path: Path, names: Collection[str]) -> Path | None:
    """Return the first subfolder that is_called so, if there is one."""
    entries = sorted(path.iterdir()) if path.is_dir() else []
    return next((entry for entry in entries if is_called(entry, names)), None)


def locate(path: Path, names: Collection[str]) -> Path:
    """Go down from a dataset's folder or its parent to the innermost folder of that name.

    Archives are often unpacked into a folder of their own name.
    """
    inner = child(path, names)
    return locate(inner, names) if inner else path


def check_range(name: str, count: int, start: int, stop: int | None, step: int) -> range:
    """Return the numbers of the frames asked for; ValueError if the video has not that many."""
    stop = count if stop is None else stop
    if not (0 <= start < stop <= count and step >= 1):
        raise ValueError(f"{name}: has {count} frames, got start={start} stop={stop} step={step}; "
                         f"ask for 0 <= start < stop <= {count} and step >= 1")
    return range(start, stop, step)


class FileSource:
    """Videos that are files or frame folders; what most datasets need is only the list of them.

    A dataset that fits into memory is decoded once: every video may take an equal share of a fixed sum, so
    that small sets do not pay for decoding at every step, and large ones pay nothing for the attempt.

    Args:
        paths: one path a video.
        root: the folder they are named relative to, where stems alone would not tell them apart.
        notes: remarks for the log, such as how many listed videos are absent.
        labels: the class of each video, where they have one.
        classes: the classes in the order of their numbers; without it, those of `labels` in natural order.
    """

    def __init__(self, paths: Sequence[Path], root: Path, notes: Sequence[str] = (), *,
                 labels: Sequence[str] | None = None, classes: Sequence[str] | None = None):
        self.paths = list(paths)
        self.notes = list(notes)
        self.classes = tuple(natsorted(set(labels or ())) if classes is None else classes)
        number = {name: n for n, name in enumerate(self.classes)}
        self._labels = None if labels is None else np.array([number.get(label, -1) for label in labels], np.int32)
        self._names = video_names(self.paths, root)
        self._kept: dict[tuple[int, Size | None], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def num_frames(self, i: int) -> int:
        """Count the frames of video i; cached, since it reads the file."""
        return num_frames(self.paths[i])

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Read frames of video i -> uint8 t h w c; see tools.video.read_video."""
        return self.read_sized(i, start, stop, step, None)

    def read_sized(self, i: int, start: int, stop: int | None, step: int, size: Size | None) -> np.ndarray:
        """Read frames of video i, the centre of each scaled to (height, width); None: frames as they are."""
        if (i, size) in self._kept:
            full = self._kept[i, size]
            if 0 <= start < (len(full) if stop is None else stop) <= len(full) and step >= 1:
                return full[start:stop:step].copy()
        frames = self._decode(i, start, stop, step, size)
        mapped = self.paths[i].suffix.lower() in _MAPPED  # as near as memory already, and shared by all processes
        if (i, size) not in self._kept and not mapped and frames[0].nbytes * self.num_frames(i) <= _MEMORY / len(self):
            with contextlib.suppress(ValueError):  # damaged elsewhere: this window is sound, and stays readable
                self._kept[i, size] = self._decode(i, 0, None, 1, size)
        return frames

    def _decode(self, i: int, start: int, stop: int | None, step: int, size: Size | None) -> np.ndarray:
        return read_video(self.paths[i], start, stop, step, size=size)

    def __getstate__(self) -> dict:  # a worker process fills its own memory
        return {**self.__dict__, "_kept": {}}

    def name(self, i: int) -> str:
        """Return a name of video i that no other has and that is good as a file name."""
        return self._names[i]

    def label(self, i: int) -> int | None:
        """Return the class of video i as an index into `classes`; None where videos have none."""
        return None if self._labels is None or self._labels[i] < 0 else int(self._labels[i])


def of_split(items: Sequence[Any], split: str, side: Callable[[Any], str | None], root: Path) -> list[Any]:
    """Keep what is on a side that its name tells; ValueError where nothing is.

    Args:
        items: what there is, at least one.
        split: train, test or all.
        side: tells "train" or "test" of an item, or None where it belongs to neither.
        root: for the error.
    """
    kept = [item for item in items if split == "all" or side(item) == split]
    if not kept:
        raise ValueError(f"{root}: none of its {len(items)} videos is on the {split} side; use data.split=all for all of them")
    return kept


def _is_named_file(path: Path) -> bool:
    """Tell a file from a folder of frames; of a video's the name tells, and the disk need not be asked a million times."""
    return path.suffix.lower() in VIDEOS or not path.is_dir()


def video_names(paths: Sequence[Path], root: Path) -> list[str]:
    """Name files and folders by their stems, and further than that only where two would be named alike."""
    stems = [p.stem if _is_named_file(p) else p.name for p in paths]
    counts = Counter(stems)
    if max(counts.values(), default=0) <= 1:
        return stems
    relative = [p.relative_to(root) if p.is_relative_to(root) else p for p in paths]
    names = ["_".join((*r.parent.parts, r.stem) if _is_named_file(p) else r.parts) for p, r in zip(paths, relative)]
    counts = Counter(names)  # a.mp4 beside a.avi
    names = [name if counts[name] == 1 else f"{name}{p.suffix.replace('.', '_')}" for p, name in zip(paths, names)]
    if len(set(names)) < len(names):  # x/y_z.npy beside x_y/z.npy
        names = [f"{number:05d}_{name}" for number, name in enumerate(names)]
    return names
