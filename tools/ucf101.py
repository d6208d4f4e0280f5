"""UCF-101: class folders of AVIs, and the official lists that say which of them train and which test."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tools.sources import SOURCES, check_split
from tools.tree import FileSource, child, describe, find_videos, is_called

_LISTS = "ucfTrainTestlist"
_OFFICIAL = re.compile(r"v_\w+_g\d\d_c\d\d", re.IGNORECASE)
_NAMES = {"ucf101"}
_LAYOUT = f"wanted UCF-101/CLASS/VIDEO.avi, with {_LISTS}/ inside or beside it for data.split=train|test"


@SOURCES.register("UCF101")
class UCF101(FileSource):
    """UCF-101 with one of its three official splits.

    Videos that a list names and the disk does not hold are counted in `notes`; without the lists, every
    split is all videos, and `notes` says so.

    Args:
        path: UCF-101 itself or the folder that holds it.
        split: train, test or all (all needs no list).
        fold: which of the three official splits: 1, 2 or 3.
    """

    def __init__(self, path: str | os.PathLike, *, split: str = "all", fold: int = 1):
        check_split(split)
        if fold not in (1, 2, 3):
            raise ValueError(f"data.fold must be 1, 2 or 3, got {fold}")
        root = _locate(Path(path))
        found = find_videos(root, ignore=[_LISTS])
        if not is_called(root, _NAMES) and not any(_OFFICIAL.match(p.name) for p in found):
            found = []  # some other folder of videos
        if not found:
            raise ValueError(f"{root}: holds no UCF-101 video ({describe(root)}; --data_path); {_LAYOUT}")
        notes: list[str] = []
        lists = next((f / _LISTS for f in (root, root.parent) if (f / _LISTS).is_dir()), None)
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
        super().__init__(found, root, notes)


def _locate(path: Path) -> Path:
    """Go down to UCF-101; the archive is sometimes unpacked into a folder of its own name."""
    inner = child(path, _NAMES)
    return _locate(inner) if inner else path


def _listed(file: Path) -> set[str]:
    if not file.is_file():
        raise ValueError(f"{file}: no such split list; add it, or use data.split=all")
    lines = (line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {_stem(words[0].split("/")[-1]) for words in lines if words}  # "Class/v_x.avi 1"


def _stem(name: str) -> str:  # the lists and the archive differ in case, and people convert the AVIs
    return name.rsplit(".", 1)[0].lower()
