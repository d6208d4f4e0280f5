"""Find the videos of a folder and pair made ones with true ones by name."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from tools.tree import describe, find_videos
from tools.video import frame_files, num_frames, read_video

_SAMPLE = re.compile(r"_\d{2,}$")  # 00003_07 is sample 7 of video 00003


@dataclass(frozen=True)
class Entry:
    """One video of a set.

    Attributes:
        name: path below the folder without suffix; a single file is called "video".
        path: the file or frame folder.
        index: its number where the file holds many videos (n t h w c), else None.
    """

    name: str
    path: Path
    index: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.index is None else f"{self.path}[{self.index}]"

    @property
    def joined(self) -> str:
        """The name as a source gives it, with _ for /."""
        return self.name.replace("/", "_")

    @property
    def last(self) -> str:
        """The name without the folders above it."""
        return self.name.rsplit("/", 1)[-1]

    def num_frames(self) -> int:
        """Count the frames."""
        return num_frames(self.path) if self.index is None else self._bundle().shape[1]

    def read(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Read frames start, start + step, ... below stop, by default all -> uint8 t h w 3 (grey becomes three equal
        channels, which changes no metric)."""
        if self.index is None:
            frames = read_video(self.path, start, stop, step)
        else:
            frames = self._bundle().read(self.index)[start:stop:step]
        return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames

    def stamp(self) -> list[tuple[int, int]]:
        """Size and time of change of its file, or of each of its frames: what tells that it is as it was."""
        files = [self.path / name for name in frame_files(self.path)] if self.path.is_dir() else [self.path]
        return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)]

    def _bundle(self) -> _Bundle:
        return _open_bundle(self.path, self.path.stat().st_mtime_ns)


class VideoSet(NamedTuple):
    folder: Path
    entries: list[Entry]
    settings: dict  # the sample.json beside the samples, {} where there is none


class Pairing(NamedTuple):
    pairs: list[tuple[Entry, Entry]]  # (real, fake), those of one real video together
    unpaired: dict[str, list[str]]    # "real" and "fake": files that nothing pairs with


def open_set(path: str | os.PathLike, side: str) -> VideoSet:
    """List the videos of one side.

    Args:
        path: a folder of videos or frame folders, nested or not; what `sample` wrote (its samples/ and real/
            are found); a single video; or an npy or npz of many (n t h w c).
        side: "real", or what the made ones are called on the command line: "fake", "input".
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"--{side} {root}: no such file or folder; check the path")
    folder = _inside(root, side)
    settings = {} if side == "real" else _settings(folder)
    files = find_videos(folder)
    entries = [entry for file in files for entry in _entries(file, folder, settings)]
    if not entries:
        raise ValueError(f"--{side} {folder}: holds no video ({describe(folder)}); "
                         f"wanted npy, npz, mp4, avi, gif, ... or frame folders")
    taken: dict[str, Entry] = {}
    for entry in entries:
        other = taken.setdefault(entry.name, entry)
        if other is not entry:
            raise ValueError(f"--{side} {folder}: {other} and {entry} have one name; leave one of them")
    return VideoSet(folder, entries, settings)


def pair_videos(real: Sequence[Entry], fake: Sequence[Entry]) -> Pairing:
    """Pair by name: exactly, or without the sample number, or by the last part where folders differ.

    Several samples of one video (00003_00, 00003_01, ...) pair each with it.
    """
    by_name, by_joined = {e.name: e for e in real}, _unique(real, lambda e: e.joined)
    by_last, fake_last = _unique(real, lambda e: e.last), _unique(fake, lambda e: e.last)
    found: dict[Entry, list[Entry]] = {entry: [] for entry in real}
    alone = []
    for entry in fake:
        match = None
        for shorten in (str, _without_sample):  # str changes nothing
            match = match or by_name.get(shorten(entry.name)) or by_joined.get(shorten(entry.joined))
        if match is None and entry.last in fake_last:
            match = by_last.get(entry.last) or by_last.get(_without_sample(entry.last))
        if match is None:
            alone.append(str(entry))
        else:
            found[match].append(entry)
    return Pairing([(r, f) for r, fakes in found.items() for f in fakes],
                   {"real": [str(r) for r, fakes in found.items() if not fakes], "fake": alone})


def _without_sample(name: str) -> str:
    return _SAMPLE.sub("", name)


def _unique(entries: Sequence[Entry], key: Callable[[Entry], str]) -> dict[str, Entry]:
    names: dict[str, list[Entry]] = {}
    for entry in entries:
        names.setdefault(key(entry), []).append(entry)
    return {name: same[0] for name, same in names.items() if len(same) == 1}


def _inside(root: Path, side: str) -> Path:
    """Step into a sample folder (samples/, real/, sample.json); any other folder is taken as it is."""
    if side != "real" and is_reconstruction(root / "recon"):
        return root / "recon"
    made, true = root / "samples", root / "real"
    if not (root / "sample.json").is_file() and not (made.is_dir() and true.is_dir()):
        return root
    inner = true if side == "real" else made
    if inner.is_dir():
        return inner
    if root.name == inner.name:  # sample.json was copied into it
        return root
    raise ValueError(f"--{side} {root}: a sample folder without {inner.name}/ ({describe(root)}); "
                     f"give the folder of the {'true' if side == 'real' else 'made'} videos")


def is_reconstruction(folder: Path) -> bool:
    """Whether a folder is the recon/ that --exp reconstruct wrote."""
    return folder.name == "recon" and folder.is_dir() and (folder.parent / "latent").is_dir() \
        and (folder.parent / "metrics.json").is_file()


def _settings(folder: Path) -> dict:
    """Read the sample.json in the folder or beside it ({} where there is none)."""
    home = folder if folder.is_dir() else folder.parent
    for path in (home / "sample.json", home.parent / "sample.json"):
        if path.is_file():
            try:
                settings = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path}: damaged JSON ({error}); sample again, or remove it") from None
            if not isinstance(settings, dict):
                raise ValueError(f"{path}: holds a {type(settings).__name__}, wanted an object of settings")
            return settings
    return {}


def _entries(file: Path, folder: Path, settings: dict) -> list[Entry]:
    """Name one file: one video, or all of a bundle."""
    if file == folder:
        stem = ""
    else:
        relative = file.relative_to(folder)
        stem = (relative if file.is_dir() else relative.with_suffix("")).as_posix()
    if not _is_bundle(file):
        return [Entry(stem or "video", file)]
    count = _open_bundle(file, file.stat().st_mtime_ns).shape[0]
    each = settings.get("samples_per_video", 1)  # a bundle holds the samples of one video together
    each = each if isinstance(each, int) and each > 1 and count % each == 0 else 1
    names = [f"{i // each:05d}_{i % each:02d}" if each > 1 else f"{i:05d}" for i in range(count)]
    return [Entry(f"{stem}/{name}" if stem else name, file, i) for i, name in enumerate(names)]


def _is_bundle(file: Path) -> bool:
    """Tell whether an array file holds many videos (five axes); damaged files are read_video's to report."""
    if file.is_dir() or file.suffix.lower() not in (".npy", ".npz"):
        return False
    try:
        return len(_open_bundle(file, file.stat().st_mtime_ns).shape) == 5
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return False


@lru_cache(maxsize=4)
def _open_bundle(path: Path, mtime: int) -> _Bundle:
    return _Bundle(path)


class _Bundle:
    """An npy or npz array read one item at a time, since 2048 videos do not fit into memory."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self._stream: io.BufferedIOBase
        if path.suffix.lower() == ".npz":
            archive = zipfile.ZipFile(path)
            keys = [n for n in archive.namelist() if n.endswith(".npy")]
            self._stream = archive.open("arr_0.npy" if "arr_0.npy" in keys or len(keys) != 1 else keys[0])
        else:
            self._stream = path.open("rb")
        version = npy.read_magic(self._stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, self._fortran, self._dtype = header(self._stream)
        self._start = self._stream.tell()

    def read(self, i: int) -> np.ndarray:
        """Return item i -> uint8 t h w c."""
        shape = self.shape[1:]
        if self._dtype != np.uint8 or self._fortran or shape[-1] not in (1, 3):
            raise ValueError(f"{self._path}: an array of {self._dtype} {self.shape}; wanted uint8 n t h w c in C order")
        size = int(np.prod(shape))
        try:
            with self._lock:  # the prefetching thread and the caller share one stream
                self._stream.seek(self._start + i * size)
                data = self._stream.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self._path}: damaged at video {i} of {self.shape[0]} ({error}); write it again") from None
        if len(data) != size:
            raise ValueError(f"{self._path}: ends inside video {i} of {self.shape[0]}; the file is damaged, write it again")
        return np.frombuffer(data, np.uint8).reshape(shape)
