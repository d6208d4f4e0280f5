"""Folders with a train and a test side: any folder of videos (VIDEOS), and SkyTimelapse (SKY)."""

from __future__ import annotations

import os
from pathlib import Path

from tools.sources import SOURCES, check_split
from tools.tree import FileSource, child, describe, find_videos

_SIDES = {"train": ("train", "training", "sky_train"), "test": ("test", "testing", "sky_test", "val", "valid",
                                                                "validation")}


@SOURCES.register("VIDEOS")
class Videos(FileSource):
    """Any folder of videos or frame folders; subfolders train and test (or val) are its sides.

    Without sides, train and all are the whole folder. A single file is a source of one video.

    Args:
        path: the folder, or one video.
        split: train, test or all; an empty side is a ValueError.
    """

    needs_sides = False
    layout = "wanted a folder of videos (mp4, avi, mkv, webm, gif, npy, ...) or of frame folders, nested or not"

    def __init__(self, path: str | os.PathLike, *, split: str = "all"):
        root, split = self.locate(Path(path)), check_split(split)
        if not root.exists():
            raise ValueError(f"{root}: no such folder (--data_path); {self.layout}")
        sides = {side: _side(root, names) for side, names in _SIDES.items()}
        if self.needs_sides and not any(sides.values()):
            raise ValueError(f"{root}: has neither a train nor a val folder ({describe(root)}; --data_path); "
                             f"{self.layout}")
        notes = []
        if split == "all" or (split == "train" and not any(sides.values())):
            folder = root
            if split == "train":
                notes.append(f"{root} has no subfolders train and test (or val): all of its videos are trained on")
        else:
            folder = sides[split]
        paths = find_videos(folder) if folder else []
        if not paths and split != "all" and find_videos(root):
            raise ValueError(f"{root}: its {split} side is empty ({describe(root)}); "
                             f"use data.split=all for all of its videos, or add a subfolder {split}")
        if not paths:
            raise ValueError(f"{root}: holds no video ({describe(root)}; --data_path); {self.layout}")
        super().__init__(paths, root, notes)

    @staticmethod
    def locate(path: Path) -> Path:
        """Return the dataset's root for a given path."""
        return path


@SOURCES.register("SKY")
class Sky(Videos):
    """SkyTimelapse: train/VIDEO/frame00000.png and val/..., flat or one level deeper; val is the test side.

    Args:
        path: SkyTimelapse itself or the folder that holds it.
        split: train, test or all.
    """

    needs_sides = True
    layout = "wanted SkyTimelapse/train/VIDEO/frame00000.png and SkyTimelapse/val/..., or the folder that holds it"

    @staticmethod
    def locate(path: Path) -> Path:
        """Return SkyTimelapse for itself or its parent."""
        if any(_side(path, names) for names in _SIDES.values()):
            return path
        return child(path, {"skytimelapse", "sky"}) or path


def _side(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
