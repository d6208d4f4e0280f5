"""Moving MNIST as downloaded: mnist_test_seq.npy, the 10,000 test videos that papers compare on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.raw import READERS, RawVideo

FILE = "mnist_test_seq.npy"
_FRAMES = 20


@READERS.register("SMMNIST")
def moving_mnist(path: Path) -> MovingMnist | None:
    """SMMNIST is mnist_test_seq.npy, uint8 of shape 20 10000 64 64, or else made from MNIST's digits.

    Args:
        path: the file, or the folder that holds it.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".npy":
        return None
    return MovingMnist(file)


class MovingMnist:
    """The videos of the file, all of them of the test side; memory-mapped.

    Args:
        file: time comes first in it, then the video.
    """

    channels = 1

    def __init__(self, file: Path):
        self.classes, self.notes, self._file = [], [], file
        self._shape = self._array().shape

    def _array(self) -> np.ndarray:  # t n h w; mapped at each use, since a mapping cannot go to another process
        try:
            array = np.load(self._file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{self._file}: is no whole array ({error}); download it again") from None
        if array.ndim != 4 or array.dtype != np.uint8 or array.shape[0] != _FRAMES:
            raise ValueError(f"{self._file}: an array of {array.dtype} {array.shape}; wanted uint8 ({_FRAMES}, videos, h, w)")
        return array

    def __len__(self) -> int:
        return self._shape[1]

    def video(self, i: int) -> RawVideo:
        """Describe video i: its number in the file."""
        return RawVideo(f"{self._file.stem}_{i:05d}", f"{self._file.name}#{i}", ("test",))

    def num_frames(self, i: int) -> int:
        """Return 20."""
        return self._shape[0]

    def read(self, i: int, start: int, stop: int) -> np.ndarray:
        """Return frames of video i -> uint8 t h w 1."""
        return np.array(self._array()[start:stop, i, ..., None])
