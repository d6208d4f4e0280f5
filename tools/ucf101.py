"""UCF-101: class folders of AVIs, and the official lists that say which of them train and which test."""

from __future__ import annotations

import os
import re
from pathlib import Path

from natsort import natsorted

from tools.hdf5 import Hdf5Source
from tools.sources import SOURCES, VideoSource, check_split
from tools.tree import HDF5, FileSource, describe, find_videos, is_called, locate, of_split

_LISTS = "ucfTrainTestlist"
_OFFICIAL = re.compile(r"v_(\w+)_g\d\d_c\d\d", re.IGNORECASE)
_NAMES = ("ucf101",)
_LAYOUT = (f"wanted UCF-101/CLASS/VIDEO.avi, with {_LISTS}/ inside or beside it for data.split=train|test, "
           "or MCVD's UCF101_64.hdf5")


@SOURCES.register("UCF101", folders=_NAMES)
def ucf101(path: str | os.PathLike, *, split: str = "all", fold: int = 1) -> VideoSource:
    """Open UCF-101 with one of its three official splits.

    Videos that a list names and the disk does not hold are counted in `notes`; without the lists, every
    split is all videos, and `notes` says so. Classes are numbered as in classInd.txt, from 0 on.

    Args:
        path: UCF-101 itself or the folder that holds it, or MCVD's HDF5 file.
        split: train, test or all (all needs no list).
        fold: which of the three official splits: 1, 2 or 3; an HDF5 file holds one, and does not tell which.
    """
    check_split(split)
    if fold not in (1, 2, 3):
        raise ValueError(f"data.fold must be 1, 2 or 3, got {fold}")
    root = locate(Path(path), _NAMES)
    found = find_videos(root, ignore=[_LISTS], also=HDF5)
    if not is_called(root, _NAMES) and not any(_OFFICIAL.match(p.name) for p in found):
        found = []  # some other folder of videos
    if not found:
        raise ValueError(f"{root}: holds no UCF-101 video ({describe(root)}; --data_path); {_LAYOUT}")
    lists = next((f / _LISTS for f in (root, root.parent) if (f / _LISTS).is_dir()), None)
    if all(p.suffix.lower() in HDF5 for p in found):
        return _of_mcvd(found, root, split)
    found = [p for p in found if p.suffix.lower() not in HDF5]
    notes: list[str] = []
    classes = _classes(lists, found)
    if split != "all" and lists is None:
        notes.append(f"no {_LISTS} in or beside {root}: data.split={split} takes all {len(found)} videos")
    elif split != "all":
        listed = _listed(lists / f"{split}list{fold:02d}.txt")
        kept = [p for p in found if _stem(p.name) in listed]
        absent = listed - {_stem(p.name) for p in kept}  # one video may be there twice, as avi and npy
        if absent:
            notes.append(f"{len(absent)} of the {len(listed)} videos that {split}list{fold:02d}.txt "
                         f"names are absent under {root}")
        if not kept:
            raise ValueError(f"{root}: none of its {len(found)} videos is on the {split} side of fold {fold}; "
                             f"use data.split=all, or another data.fold")
        found = kept
    return FileSource(found, root, notes, labels=[classes.get(_class(p).lower(), "") for p in found],
                      classes=list(classes.values()))


def _of_mcvd(shards: list[Path], root: Path, split: str) -> Hdf5Source:
    """MCVD's shards: the training videos first, as many as num_train says, then the test videos."""
    source = Hdf5Source(shards, root)
    if split == "all":
        return source
    train = source.scalar("num_train")
    if train is None:
        raise ValueError(f"{root}: does not tell num_train, and with it the sides; use data.split=all")
    kept = of_split(list(range(len(source))), split, lambda i: "train" if i < train else "test", root)
    source = source.only(kept)
    source.notes.append("the split is the one that the HDF5 file was made with (MCVD: fold 3), and data.fold is not read")
    return source


def _class(path: Path) -> str:
    """The class in an official name, or else the folder."""
    match = _OFFICIAL.match(path.name)
    return match[1] if match else path.parent.name


def _classes(lists: Path | None, found: list[Path]) -> dict[str, str]:
    """Return the names of the classes by their small letters, in the order of their numbers."""
    if lists and (lists / "classInd.txt").is_file():
        lines = (line.split() for line in (lists / "classInd.txt").read_text(encoding="utf-8", errors="replace").splitlines())
        names = [words[1] for words in lines if len(words) == 2]  # "1 ApplyEyeMakeup"
    else:
        names = natsorted({_class(p) for p in found})
    return {name.lower(): name for name in names}


def _listed(file: Path) -> set[str]:
    if not file.is_file():
        raise ValueError(f"{file}: no such split list; add it, or use data.split=all")
    lines = (line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {_stem(words[0].split("/")[-1]) for words in lines if words}  # "Class/v_x.avi 1"


def _stem(name: str) -> str:  # the lists and the archive differ in case, and people convert the AVIs
    return name.rsplit(".", 1)[0].lower()
