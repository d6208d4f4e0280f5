"""Datasets as video sources: how many videos, how long is each, and give me these frames of that one.

A new dataset is a class of this protocol in a file beside this one, registered with @SOURCES.register and
imported at the end of this file. Its `path` is a runtime object; keyword-only parameters are its options.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tools.registry import Registry

SOURCES = Registry("data source")
SPLITS = ("train", "test", "all")


class VideoSource(Protocol):
    """What Clips reads from. Deterministic, cheap to make, and safe to copy into a worker process."""
    notes: list[str]  # for the log: what is absent or was left out

    def __len__(self) -> int:
        """Return the number of videos."""

    def num_frames(self, i: int) -> int:
        """Return the exact length of video i; ValueError if the file is damaged."""

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Return frames start, start + step, ... below stop of video i -> uint8 t h w c."""

    def name(self, i: int) -> str:
        """Return a unique name of video i, good as a file name."""


def check_split(split: str) -> str:
    """Return the split if it is one."""
    if split not in SPLITS:
        raise ValueError(f'data.split must be one of {", ".join(SPLITS)}, got "{split}"')
    return split


from tools import folder, shapes, ucf101  # noqa: E402, F401  (they register themselves; SOURCES must exist)
