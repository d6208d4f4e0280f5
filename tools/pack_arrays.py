"""Numbers that come with videos, such as actions or places, in a prepared set: rows of all videos end to end.

    array-action.npy       rows of one video after those of the other
    array-action-ends.npy  int64, for each video the row behind its last; one that has none ends where it begins
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.files import replacing

Arrays = dict[str, np.ndarray]  # by name; rows belong to frames


def array_files(name: str) -> tuple[str, str]:
    """Return the names of the files of rows and of ends."""
    return f"array-{name}.npy", f"array-{name}-ends.npy"


def keep(path: Path, held: dict[int, Arrays]) -> None:
    """Write what the videos of a shard have, until all shards are there; nothing where they have nothing."""
    flat = {f"{i}/{name}": array for i, arrays in held.items() for name, array in arrays.items()}
    if flat:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **flat)


def join(paths: Sequence[Path], videos: Sequence[int], out: Path) -> list[str]:
    """Write the two files of each name for a set of these videos, in this order, and return the names.

    Args:
        paths: what `keep` wrote, where it wrote something.
        videos: their numbers.
        out: the folder.

    Raises:
        ValueError: the rows of one video are not like those of the others.
    """
    columns: dict[str, dict[int, np.ndarray]] = {}
    for path in filter(Path.exists, paths):
        with np.load(path, allow_pickle=False) as held:
            for key in held.files:
                number, name = key.split("/", 1)
                columns.setdefault(name, {})[int(number)] = held[key]
    for name, arrays in columns.items():
        assert re.fullmatch(r"\w+", name), name
        like = next(iter(arrays.values()))
        for number, array in arrays.items():
            if (array.dtype, array.shape[1:]) != (like.dtype, like.shape[1:]):
                raise ValueError(f"{name} of video {number} is {array.dtype} of shape {array.shape}, that of others is "
                                 f"{like.dtype} of shape {like.shape}; they must be alike, so mend or remove one of them")
        rows, ends = (out / file for file in array_files(name))
        found = [arrays.get(i, like[:0]) for i in videos]
        save_array(rows, np.concatenate(found))
        save_array(ends, np.cumsum([len(array) for array in found], dtype=np.int64))
    return sorted(columns)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an npy, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
