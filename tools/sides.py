"""The layout that most datasets share: a folder of one of several names, with a folder for each side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tools.tree import HDF5, check_split, describe, find_videos, is_called, locate

TRAIN = ("train", "training", "sky_train")
TEST = ("test", "testing", "sky_test", "val", "valid", "validation")  # the first that is there


@dataclass(frozen=True)
class Layout:
    """Where a dataset lies."""
    folders: tuple[str, ...]  # what it is called, in small letters without dashes and underscores; () is any folder
    wanted: str               # for the error
    train: tuple[str, ...] = TRAIN
    test: tuple[str, ...] = TEST
    side_of: Callable[[Path], str | None] | None = None  # tells the side by the name, where there is no folder for it
    ours: Callable[[Path], bool] | None = None           # knows a video of it by the name, where the folder is called otherwise

    def sides(self, root: Path) -> dict[str, Path]:
        """Return the folders of the sides that there are."""
        there = {side: next((root / name for name in names if (root / name).is_dir()), None)
                 for side, names in (("train", self.train), ("test", self.test))}
        return {side: folder for side, folder in there.items() if folder}


class Found(NamedTuple):
    """What was found of a dataset."""
    root: Path
    paths: list[Path]  # at least one, in natural order
    sides: dict[str, Path]


def find_sided(path: Path, split: str, layout: Layout) -> Found:
    """List the videos of a side of a dataset, given its folder or the parent.

    Raises:
        ValueError: there is no such dataset, or nothing on that side.
    """
    check_split(split)
    root = path if layout.sides(path) else locate(path, layout.folders)
    sides = layout.sides(root)
    called = is_called(root, layout.folders)
    if not root.exists():
        raise ValueError(f"{root}: no such folder (--data_path); {layout.wanted}")
    if sides and split != "all":
        paths = find_videos(sides[split], also=HDF5) if split in sides else []
    else:
        paths = find_videos(root, also=HDF5)
        known = [p for p in paths if layout.side_of and layout.side_of(p)]
        if layout.folders and not (sides or known or called):
            raise ValueError(f"{root}: has neither a train nor a val folder ({describe(root)}; --data_path); {layout.wanted}")
        if split != "all":
            paths = [p for p in known if layout.side_of(p) == split]
    if not paths and split != "all" and find_videos(root, also=HDF5):
        raise ValueError(f"{root}: its {split} side is empty ({describe(root)}); "
                         f"use data.split=all for all of its videos, or add a subfolder {split}")
    if not paths or not (called or layout.ours is None or any(map(layout.ours, paths))):
        what = "video of this set" if paths else "video"
        raise ValueError(f"{root}: holds no {what} ({describe(root)}; --data_path); {layout.wanted}")
    return Found(root, paths, sides)
