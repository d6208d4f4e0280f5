"""Cityscapes sequences as downloaded: 30-frame snippets of PNGs, in folders or still in the zip files."""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tools.raw import READERS, RawVideo
from tools.video import read_video

SNIPPET = 30  # frames
_FRAME = re.compile(r"(?:.*/)?(train|val|test)/[^/]+/([a-z-]+)_(\d+)_(\d+)_leftImg8bit\.png")

_Place = tuple[Path, str]  # a zip file and the name in it, or a folder and the path below it


@READERS.register("CITYSCAPES")
def cityscapes(path: Path) -> Cityscapes | None:
    """CITYSCAPES is leftImg8bit_sequence/{train,val,test}/CITY/CITY_NNNNNN_NNNNNN_leftImg8bit.png, or its zip.

    Args:
        path: the folder, or one that holds it or the zip files, or a zip file.
    """
    places = [path] if path.is_file() else [*sorted(path.rglob("*.zip")), path]
    frames = [(match, (place, name)) for place in places for name in _names(place) if (match := _FRAME.fullmatch(name))]
    if not frames:
        return None
    runs: dict[tuple[str, str, str], dict[int, _Place]] = {}
    for match, place in frames:
        runs.setdefault((match[1], match[2], match[3]), {})[int(match[4])] = place
    return Cityscapes([(side, f"{city}_{sequence}_{snippet[0]:06d}", [numbered[n] for n in snippet])
                       for (side, city, sequence), numbered in sorted(runs.items()) for snippet in snippets(numbered)])


def snippets(numbers: dict[int, _Place] | list[int]) -> Iterator[list[int]]:
    """Cut frame numbers into runs without gaps, and these into snippets of 30.

    In some cities every snippet is a sequence of its own, in others all are one long sequence with gaps between.
    """
    run: list[int] = []
    for number in sorted(numbers):
        if run and (number != run[-1] + 1 or len(run) == SNIPPET):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


class Cityscapes:
    """Snippets that are there.

    Args:
        found: (side, name, frames) of each.
    """

    channels = 3

    def __init__(self, found: list[tuple[str, str, list[_Place]]]):
        self.classes, self.notes, self._snippets = [], [], found
        short = [name for _, name, frames in found if len(frames) != SNIPPET]
        if short:
            self.notes.append(f"{len(short)} of {len(found)} snippets have fewer than {SNIPPET} frames: {', '.join(short[:5])}"
                              f"{', ...' if len(short) > 5 else ''}")

    def __len__(self) -> int:
        return len(self._snippets)

    def video(self, i: int) -> RawVideo:
        """Describe snippet i: its first frame's file, its side."""
        side, name, frames = self._snippets[i]
        place, first = frames[0]
        return RawVideo(f"{side}_{name}", f"{place.name}:{first}" if place.is_file() else first, (side,))

    def num_frames(self, i: int) -> int:
        """Count the files."""
        return len(self._snippets[i][2])

    def read(self, i: int, start: int, stop: int) -> np.ndarray:
        """Return frames of snippet i -> uint8 t h w 3."""
        return np.stack([_image(place, name) for place, name in self._snippets[i][2][start:stop]])


def _names(place: Path) -> list[str]:
    if place.is_file():
        return _archive(place).namelist()
    return [os.path.relpath(os.path.join(folder, name), place) for folder, _, names in os.walk(place, followlinks=True)
            for name in names]


def _image(place: Path, name: str) -> np.ndarray:  # h w 3
    if not place.is_file():
        return read_video(place / name)[0]
    try:
        with Image.open(io.BytesIO(_archive(place).read(name))) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{place}: {name} is damaged ({error}); download the file again") from None


def _archive(path: Path) -> zipfile.ZipFile:
    return _opened(str(path), path.stat().st_mtime_ns, os.getpid())


@lru_cache(maxsize=8)
def _opened(path: str, mtime: int, process: int) -> zipfile.ZipFile:
    """Open a zip file once a process: its list of 150,000 names takes a second, and a position must not be shared."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: is no whole zip file ({error}); download it again") from None
