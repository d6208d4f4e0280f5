"""Prepared videos: raw frames of one size in large files, so that a clip is one read of one file.

What `python -m tools.prepare` writes, and this reads:

    manifest.json     what it is, counts, classes and checksums; written last, so without it a folder is unfinished
    index.npy         a ROW a video
    names.jsonl       [name, where it came from], a line a video
    side-train.npy    numbers of the videos of a side, int32
    shard-00000.bin   uint8 t h w c, video after video
    array-NAME.npy    numbers that come with the videos, such as actions (tools.pack_arrays)
    dropped.jsonl     [name, where it came from, why], a line for each video that was left out

Frames are not compressed: decoding a PNG takes longer than decoding and resizing a frame of an AVI, and copying
raw pixels a twentieth of that. Index and sides are memory-mapped and frames are read into the array that is handed
out, so that processes share the page cache and a million videos cost a process nothing.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path

import numpy as np

from tools.pack_arrays import Arrays, array_files
from tools.tree import check_range

FAMILY = "triplane-video/packed/"
FORMAT = FAMILY + "1"
MANIFEST, INDEX, NAMES, PLAN = "manifest.json", "index.npy", "names.jsonl", "plan.json"
ROW = np.dtype([("offset", "<i8"),  # of the first frame, in bytes of the shard
                ("line", "<i8"), ("width", "<i4"),  # its line of names.jsonl: first byte, bytes
                ("shard", "<i4"), ("frames", "<i4"),
                ("label", "<i4")])  # -1 = none
_AGAIN = "prepare the set again, or copy it again"


def find_packed(path: str | Path, split: str, *, fold: int = 1) -> PackedSource | None:
    """Open a prepared folder; None where `path` is none.

    Args:
        path: the folder that holds manifest.json.
        split: train, test (or else val) or all.
        fold: of a set with several official splits.

    Raises:
        ValueError: the folder is unfinished, incomplete or of another version, or that side of it is empty.
    """
    manifest = read_manifest(Path(path))
    return None if manifest is None else PackedSource(Path(path), manifest, split, fold)


def read_manifest(folder: Path) -> dict | None:
    """Return the manifest of a prepared folder; None where the folder is not one."""
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / PLAN).is_file():
            raise ValueError(f"{folder}: its preparation is not finished; run the same python -m tools.prepare again")
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if not (folder / INDEX).exists():
            return None  # of somebody else
        raise ValueError(f"{file}: cannot be read ({error}); {_AGAIN}") from None
    kind = manifest.get("format") if isinstance(manifest, dict) else None
    if not str(kind).startswith(FAMILY):
        return None
    if kind != FORMAT:
        raise ValueError(f'{file}: has the format "{kind}", wanted "{FORMAT}"; prepare the set again with this version')
    return manifest


class PackedSource:
    """A prepared set as a VideoSource. Pickles to a few words; each process opens the files for itself.

    Args:
        folder: where the manifest lies.
        manifest: what read_manifest returned.
        split: train, test or all.
        fold: of a set with several official splits.
    """

    def __init__(self, folder: Path, manifest: dict, split: str, fold: int = 1):
        try:
            self.dataset, self.classes = str(manifest["dataset"]), tuple(manifest["classes"])
            self.shape = (*(int(n) for n in manifest["size"]), int(manifest["channels"]))  # h w c
            videos, sides, shards = int(manifest["videos"]), dict(manifest["sides"]), manifest["shards"]
            expected = {entry["name"]: int(entry["bytes"]) for entry in shards}
            self._array_names = tuple(map(str, manifest.get("arrays", ())))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / MANIFEST}: is damaged ({type(error).__name__} {error}); {_AGAIN}") from None
        self.path, self.notes = Path(folder), []
        self._side = self._choose(split, fold, sides)
        self._check_files(expected, videos)
        count = videos if self._side is None else len(self._rows)
        self._count = count
        height, width, channels = self.shape
        self.notes.append(f"prepared videos: {self.dataset}, {count} of {videos}, {height}x{width}"
                          f"{' grey' if channels == 1 else ''}")

    def _choose(self, split: str, fold: int, sides: dict[str, int]) -> str | None:
        """Return the name of the side that was asked for; None is the whole set."""
        if split == "all":
            return None
        wanted = {"train": ("train",), "test": ("test", "val")}[split]
        side = next((s for s in (f"{split}{fold:02d}", *wanted) if sides.get(s)), None)
        if side is None and split == "train" and not sides:
            self.notes.append(f"{self.path} was prepared without sides: all of its videos are trained on")
        elif side is None:
            there = ", ".join(f"{name} ({count})" for name, count in sides.items()) or "none"
            raise ValueError(f"{self.path}: its {split} side is empty (prepared sides: {there}); "
                             f"use data.split=all for all of its videos")
        return side

    def _check_files(self, expected: dict[str, int], videos: int) -> None:
        """Sizes only: a copy that stopped half-way is common, and `--check` reads all bytes."""
        for name, size in expected.items():
            file = self.path / name
            there = file.stat().st_size if file.is_file() else None
            if there != size:
                raise ValueError(f"{file}: {'is missing' if there is None else f'has {there} bytes'}, wanted {size} bytes; "
                                 f"{_AGAIN}")
        for name, (rows, ends) in self._arrays.items():
            if ends.shape != (videos,) or (len(rows) != ends[-1] if videos else len(rows)):
                raise ValueError(f"{self.path / array_files(name)[0]}: has {len(rows)} rows and {len(ends)} ends, the manifest "
                                 f"says {videos} videos; {_AGAIN}")
        if self._index.dtype != ROW or self._index.shape != (videos,):
            raise ValueError(f"{self.path / INDEX}: holds {self._index.shape} rows, the manifest says {videos}; {_AGAIN}")

    @cached_property
    def _index(self) -> np.ndarray:
        return _mapped(self.path / INDEX)

    @cached_property
    def _rows(self) -> np.ndarray:
        return _mapped(self.path / side_file(self._side))

    @cached_property
    def _names(self) -> np.ndarray:
        return np.memmap(self.path / NAMES, np.uint8, "r")

    @cached_property
    def _arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:  # rows, and where those of each video end
        files = {name: array_files(name) for name in self._array_names}
        return {name: (_mapped(self.path / rows), _mapped(self.path / ends)) for name, (rows, ends) in files.items()}

    def __getstate__(self) -> dict:  # a memory map would be pickled as the whole of what it maps
        return {key: value for key, value in self.__dict__.items() if key not in ("_index", "_rows", "_names", "_arrays")}

    def __len__(self) -> int:
        return self._count

    def _number(self, i: int) -> int:
        """Return the number in the set of video i of the side."""
        assert 0 <= i < self._count, f"video {i} of {self._count}"
        return i if self._side is None else int(self._rows[i])

    def _row(self, i: int) -> np.void:
        return self._index[self._number(i)]

    def num_frames(self, i: int) -> int:
        """Return the length of video i, from the index."""
        return int(self._row(i)["frames"])

    def label(self, i: int) -> int | None:
        """Return the number of video i's class in `classes`; None where the set has none."""
        label = int(self._row(i)["label"])
        return label if label >= 0 else None

    def arrays(self, i: int) -> Arrays:
        """Return the numbers that came with video i, by name; rows belong to frames."""
        number, found = self._number(i), {}
        for name, (rows, ends) in self._arrays.items():
            first, last = int(ends[number - 1]) if number else 0, int(ends[number])
            if last > first:
                found[name] = np.array(rows[first:last])
        return found

    def name(self, i: int) -> str:
        """Return the name of video i, unique in the set."""
        return self._line(i)[0]

    def origin(self, i: int) -> str:
        """Return what file video i was made from, relative to the folder that was prepared."""
        return self._line(i)[1]

    def _line(self, i: int) -> tuple[str, str]:
        row = self._row(i)
        try:
            name, origin = json.loads(bytes(self._names[row["line"]:row["line"] + row["width"]]))
        except ValueError as error:
            raise ValueError(f"{self.path / NAMES}: is damaged at byte {row['line']} ({error}); {_AGAIN}") from None
        return name, origin

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Read frames start, start + step, ... below stop of video i, and no others -> uint8 t h w c."""
        row = self._row(i)
        count = int(row["frames"])
        stop = count if stop is None else stop
        if not (0 <= start < stop <= count and step >= 1):
            check_range(self.name(i), count, start, stop, step)  # raises; a name costs a read of another file
        wanted = range(start, stop, step)
        frames = np.empty((len(wanted), *self.shape), np.uint8)
        parts = [(start, frames)] if step == 1 else zip(wanted, frames)
        file = self.path / shard_file(int(row["shard"]))
        try:
            # Opened for each clip (20 us): no limit on open files, nothing shared between threads and processes,
            # and a file that is cut short is an error, where touching a memory map of it would end the process.
            with open(file, "rb", buffering=0) as shard:
                for first, part in parts:
                    shard.seek(int(row["offset"]) + first * math.prod(self.shape))
                    _fill(shard, part, file)
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror}); {_AGAIN}") from None
        return frames


def _fill(file, array: np.ndarray, path: Path) -> None:
    view = memoryview(array).cast("B")
    while len(view):
        got = file.readinto(view)  # one read returns at most 2 GB
        if not got:
            raise ValueError(f"{path}: is cut short; {_AGAIN}")
        view = view[got:]


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: is damaged or missing ({error}); {_AGAIN}") from None


def shard_file(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.bin"


def side_file(side: str) -> str:
    """Return the name of the file that lists a side's videos."""
    return f"side-{side}.npy"
