"""CARLA Town01 of FDM: drives of 1000 frames of 128x128 as video_NUMBER.pt, the last hundred of which are the test side."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.checkpoint import load_raw
from tools.sources import SOURCES, VideoSource, check_split
from tools.tree import FileSource, check_range, describe, find_videos, locate, of_split

_NAMES = ("carla", "carlatown01", "town01", "notraffic")
_TEST = 100  # videos, where no list tells them
_VIDEO = re.compile(r"video_(\d+)")
_LAYOUT = ("wanted no-traffic/video_0.pt (or mp4, npy, ...), with video_train.csv and video_test.csv where the split is not "
           f"the last {_TEST}, or the folder that holds it (carla/no-traffic)")


@SOURCES.register("CARLA", folders=_NAMES)
def carla(path: str | os.PathLike, *, split: str = "all") -> VideoSource:
    """Open CARLA Town01. Without lists, the videos of the hundred highest numbers are the test side, as in FDM.

    Args:
        path: no-traffic or a folder that holds it.
        split: train, test or all.
    """
    check_split(split)
    root = locate(Path(path), _NAMES)
    found = {int(_VIDEO.fullmatch(p.stem)[1]): p for p in find_videos(root, also=[".pt"]) if _VIDEO.fullmatch(p.stem)}
    if not found:
        raise ValueError(f"{root}: holds no CARLA video ({describe(root)}; --data_path); {_LAYOUT}")
    numbers, notes = sorted(found), []
    if split != "all":
        file = next((p for p in sorted(root.rglob(f"video_{split}.csv"))), None)
        listed = set(numbers[:-_TEST] if split == "train" else numbers[-_TEST:]) if file is None else _listed(file)
        absent = listed.difference(numbers)
        if absent:
            notes.append(f"{len(absent)} of the {len(listed)} videos that {file.name} names are absent under {root}")
        numbers = of_split(numbers, split, lambda n: split if n in listed else None, root)
    return Drives([found[n] for n in numbers], root, notes)


def _listed(file: Path) -> set[int]:
    """Read the numbers of a list: lines "7,some/folder/video_7.pt" after a heading."""
    names = (line.replace("\\", "/").rsplit("/", 1)[-1].rsplit(",", 1)[-1] for line in
             file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {int(match[1]) for name in names if (match := _VIDEO.match(name.strip()))}


class Drives(FileSource):
    """Files of which those that torch wrote are memory-mapped: 16 frames of a thousand are all that is read."""

    def num_frames(self, i: int) -> int:
        """Return the length that the file states."""
        return len(_tensor(self.paths[i])) if self.paths[i].suffix == ".pt" else super().num_frames(i)

    def _decode(self, i: int, start: int, stop: int | None, step: int) -> np.ndarray:
        if self.paths[i].suffix != ".pt":
            return super()._decode(i, start, stop, step)
        frames = _tensor(self.paths[i])
        wanted = check_range(os.fspath(self.paths[i]), len(frames), start, stop, step)
        return frames[wanted.start:wanted.stop:step].clone().numpy()


def _tensor(path: Path) -> Tensor:  # uint8 t h w 3
    frames = load_raw(path, mmap=True)
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        what = f"{frames.dtype} {tuple(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"{path}: holds {what}; wanted a tensor uint8 t h w 3")
    return frames
