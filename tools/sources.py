"""Datasets as video sources: how many videos, how long is each, and give me these frames of that one.

A new dataset is a class of this protocol, or a function that returns one, in a file beside this one, registered
with @SOURCES.register and imported at the end of this file. Its `path` is a runtime object; keyword-only
parameters are its options.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tools.registry import Registry
from tools.tree import check_split, child


class VideoSource(Protocol):
    """What Clips reads from. Deterministic, cheap to make, and safe to copy into a worker process.

    Where videos have classes, a source also has `label(i)`, the number of the class from 0 on (None if it is not
    known), and `classes`, their names in that order (empty where only the numbers are known). Where they come with
    numbers of their own, it has `arrays(i)`: these by name, such as `action` or `coords`, rows for frames.
    """
    notes: list[str]  # for the log: what is absent or was left out

    def __len__(self) -> int:
        """Return the number of videos."""

    def num_frames(self, i: int) -> int:
        """Return the exact length of video i; ValueError if the file is damaged."""

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Return frames start, start + step, ... below stop of video i -> uint8 t h w c."""

    def name(self, i: int) -> str:
        """Return a unique name of video i, good as a file name."""


class Sources(Registry):
    """The datasets by name. Whatever the name, a folder that `python -m tools.prepare` made is read as it is."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self._folders: dict[str, Collection[str]] = {}

    def register(self, name: str, folders: Collection[str] | None = None) -> Callable:
        """Register a dataset.

        Args:
            name: of --data.
            folders: what its folder is called, in small letters without dashes and underscores (see tree.is_called);
                None for a set that is generated from nothing.
        """
        if folders is not None:
            self._folders[name] = folders
        return super().register(name)

    def bind(self, cfg: Mapping[str, Any] | str) -> Callable[..., VideoSource]:
        """Fix the options of a dataset; what is returned takes its path and opens it."""
        raw = super().bind(cfg)
        name = cfg if isinstance(cfg, str) else cfg["name"]
        return functools.partial(_open, raw, name, self._folders[name]) if name in self._folders else raw


def _open(raw: functools.partial, name: str, folders: Collection[str], path: str | os.PathLike) -> VideoSource:
    from tools.packed import find_packed  # it reads what sources describe

    options = dict(raw.keywords)
    split, fold = check_split(options.pop("split", "all")), options.pop("fold", 1)
    for place in (Path(path), child(Path(path), folders)):
        packed = find_packed(place, split, fold=fold) if place else None
        if packed is None:
            continue
        if folders and packed.dataset != name:
            raise ValueError(f"{place}: was prepared from {packed.dataset}, not {name}; use --data {packed.dataset}, or VIDEOS")
        settled = {key: value for key, value in options.items() if value != SOURCES.options(name)[key]}
        if settled:
            raise ValueError(f"{place}: is a prepared set, in which data.options.{next(iter(settled))} is settled; "
                             f"leave the option out, or prepare the set again with it")
        return packed
    return raw(path)


SOURCES = Sources("data source")

# They register themselves; SOURCES must exist.
from tools import bair, carla_town, cityscapes, folder, kth, shapes, smmnist, ucf101  # noqa: E402, F401
