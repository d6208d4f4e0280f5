"""SMMNIST, stochastic moving MNIST: two digits that bounce off the border at random angles, made as they are read."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tools.rng import numpy_rng
from tools.sources import SOURCES, check_split
from tools.tree import check_range, describe, locate

_NAMES = ("mnist", "smmnist", "movingmnist", "raw")
_FILES = {"train": "train-images", "test": "t10k-images"}
_VIDEOS = {"train": 60_000, "test": 256}
_DIGIT = 32       # pixels of a digit, which MNIST draws on 28
_FASTEST = 4      # pixels a frame, along each axis
_HELD_OUT = 10    # one of so many digits, where one file serves both sides
_PAGE = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class _Digits(NamedTuple):
    """A part of the pictures of one file."""
    file: str   # "" is scikit-learn's
    part: str   # all, or train or test where one file serves both sides

    def __call__(self) -> np.ndarray:  # n h w uint8
        pictures = _mnist(self.file) if self.file else _sklearn()
        held_out = len(pictures) // _HELD_OUT
        return {"all": pictures, "train": pictures[:-held_out], "test": pictures[-held_out:]}[self.part]


@SOURCES.register("SMMNIST", folders=_NAMES)
class MovingDigits:
    """Stochastic moving MNIST (SVG; MCVD's constants): digits of 32 pixels on black, added where they overlap.

    A digit that reaches the border gets a new random speed away from it, along both axes. Video i of a side is a
    function of (seed, side, i) alone: the test set is the same at any length of the set and on any machine.

    Args:
        path: a folder with MNIST's image files (idx, idx.gz, or torchvision's MNIST/raw), or one that holds it.
        split: train, test, or all (train, then test).
        digits: mnist, or sklearn for scikit-learn's 1,797 digits of 8x8 pixels, which need no file.
        length: frames of each video.
        size: height and width in pixels.
        count: videos of each side; None is 60,000 for train and 256 for test.
        number: digits in a video.
        deterministic: digits are mirrored at the border as light is.
        seed: another seed is another dataset.
    """

    channels = 1

    def __init__(self, path: str | os.PathLike, *, split: str = "all", digits: str = "mnist", length: int = 20,
                 size: int = 64, count: int | None = None, number: int = 2, deterministic: bool = False, seed: int = 0):
        check_split(split)
        if digits not in ("mnist", "sklearn"):
            raise ValueError(f'data.digits must be mnist or sklearn, got "{digits}"')
        if size <= _DIGIT or length < 1 or number < 1 or (count is not None and count < 1):
            raise ValueError(f"SMMNIST needs size > {_DIGIT}, length, number and count >= 1, "
                             f"got size={size} length={length} number={number} count={count}")
        sides = ("train", "test") if split == "all" else (split,)
        self.notes: list[str] = []
        files = _find(Path(path)) if digits == "mnist" else {}
        self._digits = {side: _Digits(os.fspath(files.get(side) or next(iter(files.values()), "")),
                                      "all" if len(files) == 2 else side) for side in sides}
        if len(files) == 1:
            there, absent = next(iter(files.values())), _FILES[next(side for side in _FILES if side not in files)]
            self.notes.append(f"there is no {absent}-idx3-ubyte beside {there.name}: its first nine tenths are the digits of "
                              "the train side, the last tenth those of the test side")
        self.notes += [f"{side} digits: {len(some())} of {some.file or 'scikit-learn (8x8 pixels, not MNIST)'}"
                       for side, some in self._digits.items()]
        self._counts = {side: int(count or _VIDEOS[side]) for side in sides}
        self._length, self._size, self._number = int(length), int(size), int(number)
        self._deterministic, self._seed = bool(deterministic), int(seed)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def _at(self, i: int) -> tuple[str, int]:  # side, number on it
        for side, count in self._counts.items():
            if i < count:
                return side, i
            i -= count
        raise IndexError(i)

    def num_frames(self, i: int) -> int:
        """Return the length, which all videos share."""
        assert 0 <= i < len(self)
        return self._length

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Return frames of video i -> uint8 t h w 3, its three channels alike."""
        wanted = check_range(self.name(i), self._length, start, stop, step)
        side, number = self._at(i)
        rng, pictures = numpy_rng(self._seed, "smmnist", side, number), self._digits[side]()
        frames = np.zeros((wanted[-1] + 1, self._size, self._size), np.uint8)
        for _ in range(self._number):
            picture = Image.fromarray(pictures[rng.integers(len(pictures))])
            digit = np.asarray(picture.resize((_DIGIT, _DIGIT), Image.Resampling.BILINEAR))
            # Each digit has draws of its own: what is read of a video must not depend on where reading stops.
            places = bounce(np.random.Generator(np.random.PCG64(rng.integers(1 << 63))), self._size - _DIGIT,
                            deterministic=self._deterministic)
            for frame, (y, x) in zip(frames, places):
                window = frame[y:y + _DIGIT, x:x + _DIGIT]
                window += np.minimum(digit, 255 - window)  # saturates
        return np.repeat(frames[wanted.start::step, ..., None], 3, axis=-1)

    def name(self, i: int) -> str:
        """Return smmnist_SIDE_NUMBER."""
        side, number = self._at(i)
        return f"smmnist_{side}_{number:05d}"


def bounce(rng: np.random.Generator, room: int, *, deterministic: bool = False) -> Iterator[tuple[int, int]]:
    """Yield the places (y, x) of a digit in 0 ... room - 1, frame after frame without end.

    In each frame the digit is brought back from beyond the border first, then drawn, then moved. A speed along an
    axis may be 0. At the border both speeds are drawn anew, the one across it away from it; where both axes are beyond
    it, x comes second and may turn y back to the border.

    Args:
        rng: source of the places and speeds.
        room: places along an axis.
        deterministic: negate the speed across the border, and draw nothing.
    """
    place, speed = rng.integers(room, size=2), rng.integers(-_FASTEST, _FASTEST + 1, 2)
    while True:
        for axis in (0, 1):
            if 0 <= place[axis] < room:
                continue
            low = place[axis] < 0
            place[axis] = 0 if low else room - 1
            if deterministic:
                speed[axis] = -speed[axis]
            else:
                away = rng.integers(1, _FASTEST + 1)
                speed[axis], speed[1 - axis] = away if low else -away, rng.integers(-_FASTEST, _FASTEST + 1)
        yield int(place[0]), int(place[1])
        place = place + speed


def _find(path: Path) -> dict[str, Path]:
    """Return the files of MNIST's pictures by side, at least one."""
    root = locate(path, _NAMES)
    files = {side: next((root / f"{name}{dot}idx3-ubyte{suffix}" for dot in "-." for suffix in ("", ".gz")
                         if (root / f"{name}{dot}idx3-ubyte{suffix}").is_file()), None) for side, name in _FILES.items()}
    if not any(files.values()):
        raise ValueError(f"{root}: holds no MNIST digits ({describe(root)}; --data_path); wanted train-images-idx3-ubyte.gz "
                         f"and t10k-images-idx3-ubyte.gz, packed or not, here or in MNIST/raw: fetch them from {_PAGE} and "
                         f"put them into {root}, or take scikit-learn's digits with data.digits=sklearn")
    return {side: file for side, file in files.items() if file}


@lru_cache(maxsize=4)
def _mnist(file: str) -> np.ndarray:  # n 28 28 uint8
    try:
        if file.endswith(".gz"):
            with gzip.open(file) as packed:
                data = np.frombuffer(packed.read(), np.uint8)
        else:
            data = np.memmap(file, np.uint8, "r")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{file}: damaged ({error}); fetch it again from {_PAGE}") from None
    magic, count, height, width = (int(n) for n in data[:16].view(">u4")) if len(data) >= 16 else (0, 0, 0, 0)
    if magic != 2051 or len(data) != 16 + count * height * width or count < _HELD_OUT:
        raise ValueError(f"{file}: {len(data)} bytes are not MNIST's pictures; fetch it again from {_PAGE}")
    return data[16:].reshape(count, height, width)


@lru_cache(maxsize=1)
def _sklearn() -> np.ndarray:  # n 8 8 uint8
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("data.digits=sklearn needs scikit-learn; pip install scikit-learn, or give MNIST's files") from None
    return np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
