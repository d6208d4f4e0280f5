"""Several datasets as one: the videos of each follow those of the one before, and training draws them by weight."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.fit import read_sized
from tools.sources import VideoSource


class Part(NamedTuple):
    """A stretch of a source whose videos are drawn in turn."""
    name: str
    first: int                # its first video
    count: int                # of its videos
    weight: Fraction          # its share of the samples, against those of the others
    strides: tuple[int, ...]  # from which a sample draws; empty: those of the whole


def parts_of(source: VideoSource) -> tuple[Part, ...]:
    """Return the parts of a mixture; any other source is its own only one."""
    return getattr(source, "parts", None) or (Part("", 0, len(source), Fraction(1), ()),)


class Mixture:
    """A VideoSource over others.

    Args:
        sources: the datasets, by a label that no other has.
        weights: share of the samples that each has, against the others.
        strides: from which the samples of each draw; empty: as for all.
    """

    def __init__(self, sources: Sequence[tuple[str, VideoSource]], weights: Sequence[float],
                 strides: Sequence[tuple[int, ...]]):
        assert len({label for label, _ in sources}) == len(sources) == len(weights) == len(strides)
        self.sources = [source for _, source in sources]
        self._ends = list(accumulate(len(source) for source in self.sources))
        firsts = [0, *self._ends[:-1]]
        self.parts = tuple(Part(label, first, len(source), Fraction(weight), own)
                           for (label, source), first, weight, own in zip(sources, firsts, weights, strides, strict=True))
        total = sum(part.weight for part in self.parts)
        self.notes = [f"{part.name}: {part.count} videos, {float(part.weight / total):.1%} of the samples"
                      for part in self.parts]
        self.notes += [f"{part.name}: {note}" for part, source in zip(self.parts, self.sources) for note in source.notes]

    @property
    def paths(self) -> list[Path]:
        """The files of all parts that have some."""
        return [path for source in self.sources for path in getattr(source, "paths", ())]

    def __len__(self) -> int:
        return self._ends[-1]

    def num_frames(self, i: int) -> int:
        """Return the length of video i."""
        source, own = self._place(i)
        return self.sources[source].num_frames(own)

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Return frames of video i -> uint8 t h w c."""
        source, own = self._place(i)
        return self.sources[source].read(own, start, stop, step)

    def read_sized(self, i: int, start: int, stop: int | None, step: int, size: tuple[int, int]) -> np.ndarray:
        """Read frames of video i, the centre of each scaled to (height, width)."""
        source, own = self._place(i)
        return read_sized(self.sources[source], own, start, stop, step, size)

    def name(self, i: int) -> str:
        """Return LABEL_NAME."""
        source, own = self._place(i)
        return f"{self.parts[source].name}_{self.sources[source].name(own)}"

    def _place(self, i: int) -> tuple[int, int]:
        assert 0 <= i < len(self)
        source = bisect_right(self._ends, i)
        return source, i - self.parts[source].first
