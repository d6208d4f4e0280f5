"""A download that has a reader for preparing (tools.raw) as a data source, so that it need not be prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tools.tree import check_range, of_split

if TYPE_CHECKING:
    from tools.raw import RawSet

_SIDES = {"train": ("train",), "test": ("test", "val")}  # the first that there is


class RawSource:
    """The videos of a download that are on one side of it.

    Args:
        raw: what a reader returned.
        split: train, test (or else val) or all.
        root: where it was read, for errors.
        by_frame: its frames lie apart, so that those between the wanted ones need not be read.
    """

    def __init__(self, raw: RawSet, split: str, root: Path, *, by_frame: bool):
        self.notes, self.classes, self.channels = list(raw.notes), tuple(raw.classes), raw.channels
        self._raw, self._root, self._by_frame = raw, root, by_frame
        there = [raw.video(i).sides for i in range(len(raw))]
        wanted = next((side for side in _SIDES.get(split, ()) if any(side in sides for sides in there)), split)
        self._numbers = of_split(list(range(len(raw))), split, lambda i: split if wanted in there[i] else None, root)

    def __len__(self) -> int:
        return len(self._numbers)

    def num_frames(self, i: int) -> int:
        """Return the length of video i."""
        return self._raw.num_frames(self._numbers[i])

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Read frames of video i -> uint8 t h w c."""
        wanted = check_range(self.name(i), self.num_frames(i), start, stop, step)
        if step > 1 and self._by_frame:
            return np.concatenate([self._raw.read(self._numbers[i], t, t + 1) for t in wanted])
        return self._raw.read(self._numbers[i], wanted.start, wanted[-1] + 1)[::step]

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """Return the numbers that come with video i, by name."""
        return self._raw.arrays(self._numbers[i]) if hasattr(self._raw, "arrays") else {}

    def name(self, i: int) -> str:
        """Return the name of video i, unique in the download."""
        return self._raw.video(self._numbers[i]).name

    def label(self, i: int) -> int | None:
        """Return the number of video i's class in `classes`, or None."""
        label = self._raw.video(self._numbers[i]).label
        return None if label < 0 else label

    @property
    def paths(self) -> list[Path]:
        """What each video is: the file, and in it the place."""
        return [self._root / self._raw.video(i).origin for i in self._numbers]
