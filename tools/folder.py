"""Datasets whose sides are folders: any folder of videos (VIDEOS), SkyTimelapse, CLEVRER and Kinetics."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from natsort import natsorted

from tools.joined import open_files
from tools.sides import Layout, find_sided
from tools.sources import SOURCES, VideoSource, check_split

_VIDEOS = Layout((), "wanted a folder of videos (mp4, avi, mkv, webm, gif, npy, h5, ...) or of frame folders, nested or not")
_SKY = Layout(("skytimelapse", "sky"),
              "wanted SkyTimelapse/train/VIDEO/frame00000.png and SkyTimelapse/val/..., or the folder that holds it")


_CLEVRER_VIDEO = re.compile(r"video_(\d{5})")


def _clevrer_side(path: Path) -> str | None:
    """5,000 videos from the 10,000th on are the validation side, and on neither of ours."""
    match = _CLEVRER_VIDEO.fullmatch(path.stem)
    number = int(match[1]) if match else 10_000
    return "train" if number < 10_000 else "test" if number >= 15_000 else None


_CLEVRER = Layout(("clevrer",), train=("train", "video_train"), side_of=_clevrer_side,
                  ours=lambda path: bool(_CLEVRER_VIDEO.fullmatch(path.stem)),
                  test=("test", "video_test", "val", "video_validation", "validation"),
                  wanted="wanted CLEVRER/{video_train,video_validation,video_test}/**/video_00000.mp4, "
                         "CLEVRER/{train,val}/VIDEO/frame00000.png, or the folder that holds it")
_SETS = ("", "400", "600", "700", "7002020")
_KINETICS = Layout(tuple(f"{name}{size}" for name in ("kinetics", "k") for size in _SETS if name + size != "k"),
                   train=("train", "videos_train", "rawframes_train", "train_256"),
                   test=("test", "val", "validate", "validation", "videos_val", "rawframes_val", "val_256"),
                   wanted="wanted kinetics600/{train,val,test}/CLASS/VIDEO.mp4, or the folder that holds it")


@SOURCES.register("VIDEOS", folders=())
def videos(path: str | os.PathLike, *, split: str = "all") -> VideoSource:
    """Open any folder of videos or frame folders; subfolders train and test (or val) are its sides.

    Without sides, train and all are the whole folder. A single file is a source of one video, or of as many as
    an HDF5 file holds.

    Args:
        path: the folder, or one video.
        split: train, test or all; an empty side is a ValueError.
    """
    root, notes = Path(path), []
    if check_split(split) == "train" and not _VIDEOS.sides(root):
        split = "all"
        notes = [f"{root} has no subfolders train and test (or val): all of its videos are trained on"]
    found = find_sided(root, split, _VIDEOS)
    return open_files(found.paths, found.root, notes)


@SOURCES.register("SKY", folders=_SKY.folders)
def sky(path: str | os.PathLike, *, split: str = "all") -> VideoSource:
    """Open SkyTimelapse: train/VIDEO/frame00000.png and val/..., flat or one level deeper; val is the test side.

    Args:
        path: SkyTimelapse itself or the folder that holds it.
        split: train, test or all.
    """
    found = find_sided(Path(path), split, _SKY)
    return open_files(found.paths, found.root)


@SOURCES.register("CLEVRER", folders=_CLEVRER.folders)
def clevrer(path: str | os.PathLike, *, split: str = "all") -> VideoSource:
    """Open CLEVRER as it is distributed, as frame folders, or flat (0-9999 train, 15000-19999 test by their names).

    The test side is the test folder, or where there is none, the validation folder.

    Args:
        path: CLEVRER itself or the folder that holds it.
        split: train, test or all (with the validation folder).
    """
    found = find_sided(Path(path), split, _CLEVRER)
    return open_files(found.paths, found.root)


@SOURCES.register("KINETICS", folders=_KINETICS.folders)
def kinetics(path: str | os.PathLike, *, split: str = "all") -> VideoSource:
    """Open Kinetics-400, -600 or -700: a folder a side, and in it a folder a class; classes in natural order.

    The test side is the test folder, or where there is none, the validation folder.

    Args:
        path: kinetics600 (or 400, 700) itself or the folder that holds it.
        split: train, test or all.
    """
    found = find_sided(Path(path), split, _KINETICS)
    folders = set(found.sides.values())

    def label(video: Path) -> str | None:
        side = next((parent for parent in video.parents if parent in folders), found.root)
        inside = video.relative_to(side).parts
        return inside[0] if len(inside) > 1 else None

    return open_files(found.paths, found.root, label=label, classes=_classes(found.sides.values() or [found.root]))


def _classes(sides: Iterable[Path]) -> list[str]:
    """The class folders of all sides, so that a class has the same number on each."""
    return natsorted({entry.name for side in sides for entry in os.scandir(side) if entry.is_dir()})
