"""Long lists of names in arrays: an eighth of the memory, and none of it is copied by the processes that share it.

A list of Python strings is written to whenever one of them is looked at (its count of references), so that each
loading process would in time hold a copy of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tools.sources import VideoSource

_LONG = 4096  # shorter lists cost nothing


class Texts(Sequence):
    """Strings end to end in one array; reads like a list of them."""

    def __init__(self, items: Iterable[str]):
        encoded = [str(item).encode("utf-8", "surrogateescape") for item in items]  # names of files need not be text
        self.bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)  # where each begins, and the last ends

    @classmethod
    def of(cls, text: np.ndarray, ends: np.ndarray) -> Texts:
        """Take over the arrays of another."""
        made = cls(())
        made.bytes, made.ends = text, ends
        return made

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self.bytes[self.ends[i]:self.ends[i + 1]].tobytes().decode("utf-8", "surrogateescape")


class Paths(Texts):
    """Paths in one array."""

    def __getitem__(self, i):
        found = super().__getitem__(i)
        return [Path(text) for text in found] if isinstance(i, slice) else Path(found)


def compact(source: VideoSource) -> VideoSource:
    """Keep the long lists of names and paths of a source in arrays, from now on."""
    for key, value in vars(source).items() if hasattr(source, "__dict__") else ():
        if isinstance(value, list) and len(value) >= _LONG:
            for kind, table in ((str, Texts), (Path, Paths)):
                if all(isinstance(item, kind) for item in value):
                    setattr(source, key, table(value))
    return source
