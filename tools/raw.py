"""Downloads as they come, for preparing: what videos there are, on which side, of which class, and their frames.

Whatever is a data source already (tools.sources) is prepared from it. A download that no source reads (TFRecords,
zips, lists of sequences) has a reader here: a function `(path, *, options) -> RawSet or None`, None where the path
holds another layout, registered in a file beside this one and imported at the end of it.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tools.registry import Registry, nearest
from tools.sources import SOURCES, VideoSource

READERS = Registry("raw dataset")
FOLDS = (1, 2, 3)


class RawVideo(NamedTuple):
    """What is known of a video before it is read."""
    name: str                    # unique in the set, good as a file name
    origin: str                  # file or files, relative to the folder given
    sides: tuple[str, ...] = ()  # train, test, val, or with folds train01, test01, ...
    label: int = -1              # class; -1 = none


class RawSet(Protocol):
    """A download. Cheap to copy into a worker process: files are opened there.

    Where videos come with numbers, such as actions, a set also has `arrays(i)`: these by name, rows for frames.
    """
    classes: list[str]
    notes: list[str]
    channels: int  # 1 = the videos are grey

    def __len__(self) -> int:
        """Return the number of videos."""

    def video(self, i: int) -> RawVideo:
        """Describe video i without reading it."""

    def num_frames(self, i: int) -> int:
        """Return the length of video i; ValueError if it is damaged."""

    def read(self, i: int, start: int, stop: int) -> np.ndarray:
        """Return frames of video i -> uint8 t h w c."""


def open_raw(name: str, path: str | os.PathLike, options: dict[str, Any] | None = None) -> RawSet:
    """Open a download by the reader of that name, or else by the data source of that name.

    Raises:
        ValueError: no such name or option, or no videos of it at the path.
    """
    path, options = Path(path), dict(options or {})
    if name not in READERS and name not in SOURCES:
        known = sorted({*READERS, *SOURCES})
        raise ValueError(f'unknown dataset "{name}"{nearest(name, known)}; known: {", ".join(known)}')
    if not path.exists():
        raise ValueError(f"{path}: no such folder or file (--src)")
    of_reader = READERS.options(name) if name in READERS else {}
    if name in READERS:
        raw = READERS.bind({"name": name, **{k: v for k, v in options.items() if k in of_reader}})(path)
        if raw is not None:
            return _used(raw, name, options, of_reader)
    if name not in SOURCES:
        raise ValueError(f"{path}: holds no {name} download; {inspect.getdoc(READERS.get(name)).splitlines()[0]}")
    return FromSource(name, path, options)


def _used(raw: RawSet, name: str, options: dict[str, Any], valid: dict[str, Any]) -> RawSet:
    for option in options:
        if option not in valid:
            raise ValueError(f'this {name} download has no option "{option}"{nearest(option, valid)}; '
                             f"valid: {', '.join(valid) or 'none'}")
    return raw


class FromSource:
    """Any data source as a download; its sides are what it gives for split=train and split=test.

    Args:
        name: of the data source.
        path: where its files are.
        options: of the source.
    """

    def __init__(self, name: str, path: Path, options: dict[str, Any]):
        self._path = path
        self._source: VideoSource = SOURCES.bind({"name": name, **options, "split": "all"})(path)
        self.notes = list(self._source.notes)
        self.classes = list(getattr(self._source, "classes", None) or [])
        self.channels = int(getattr(self._source, "channels", 3))
        self._keys = _keys(self._source)
        folds = FOLDS if "fold" in SOURCES.options(name) and "fold" not in options else (None,)
        self._sides: list[tuple[str, set]] = []
        for fold in folds:
            self._sides += self._of_fold(name, options, fold)

    def _of_fold(self, name: str, options: dict[str, Any], fold: int | None) -> list[tuple[str, set]]:
        sides = []
        for split in ("train", "test"):
            extra = {} if fold is None else {"fold": fold}
            try:
                source = SOURCES.bind({"name": name, **options, **extra, "split": split})(self._path)
            except ValueError as error:  # an empty side, an absent list
                self.notes.append(f"no {split} side{'' if fold is None else f' of fold {fold}'}: {error}")
                continue
            sides.append((split if fold is None else f"{split}{fold:02d}", set(_keys(source))))
        # Everything on both sides: the source has no lists to tell them apart.
        return [] if len(sides) == 2 and sides[0][1] == sides[1][1] else sides

    def __len__(self) -> int:
        return len(self._keys)

    def video(self, i: int) -> RawVideo:
        """Describe video i: its file, the sides that list it, its class."""
        key = self._keys[i]
        name, label = self._source.name(i), -1
        if hasattr(self._source, "label"):
            given = self._source.label(i)
            label = -1 if given is None else int(given)
        origin = os.path.relpath(key, self._path) if isinstance(key, Path) and key != self._path else name
        return RawVideo(name, origin, tuple(side for side, keys in self._sides if key in keys), label)

    def num_frames(self, i: int) -> int:
        """Return the length that the source tells."""
        return self._source.num_frames(i)

    def read(self, i: int, start: int, stop: int) -> np.ndarray:
        """Return frames of the source -> uint8 t h w c."""
        return self._source.read(i, start, stop)

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """Return the numbers that come with video i, by name."""
        return self._source.arrays(i) if hasattr(self._source, "arrays") else {}

    def __getstate__(self) -> dict:  # workers read; the sides are for the one that writes the index
        return {**self.__dict__, "_sides": [], "_keys": [], "notes": []}


def _keys(source: VideoSource) -> list:
    """What tells a video on whatever side it is met: its file, or else its name."""
    paths = getattr(source, "paths", None)
    return list(paths) if paths else [source.name(i) for i in range(len(source))]


from tools import raw_bair, raw_cityscapes, raw_kth, raw_mnist  # noqa: E402, F401  (they register themselves)
