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
from tools.tree import FileSource, Size, check_range, describe, find_videos, locate, of_split
from tools.video import resize_crop

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


def coords_path(video: Path) -> Path:
    """Where the coordinates of a drive lie: video_7.pt has coords_7.npy beside it."""
    return video.with_name(video.stem.replace("video", "coords", 1) + ".npy")


def read_coords(path: str | os.PathLike) -> np.ndarray:
    """Read the places of a video: float64 t 2, x and y in metres; what comes after these two, such as the height, is cut off.

    Raises:
        ValueError: no such file, or not numbers t 2.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the coordinates of video_7 are wanted beside it as coords_7.npy, t x 2 metres")
    try:
        coords = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: damaged or no array ({error}); write it again") from None
    numbers = isinstance(coords, np.ndarray) and coords.dtype.kind in "fiu" and coords.ndim == 2 and coords.shape[1] >= 2
    if not numbers or not len(coords):
        what = f"{coords.dtype} {coords.shape}" if isinstance(coords, np.ndarray) else type(coords).__name__
        raise ValueError(f"{path}: holds {what}; wanted numbers t 2, x and y in metres")
    coords = coords[:, :2].astype(np.float64)
    if not np.isfinite(coords).all():
        frame = int(np.argmin(np.isfinite(coords).all(1)))
        raise ValueError(f"{path}: frame {frame} has no finite coordinates; write it again")
    return coords


class Drives(FileSource):
    """Files of which those that torch wrote are memory-mapped: 16 frames of a thousand are all that is read."""

    def num_frames(self, i: int) -> int:
        """Return the length that the file states."""
        return len(_tensor(self.paths[i])) if self.paths[i].suffix == ".pt" else super().num_frames(i)

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """Return the coordinates t 2, x and y in metres, where they lie beside the file."""
        path = coords_path(self.paths[i])
        return {"coords": read_coords(path)} if path.exists() else {}

    def _decode(self, i: int, start: int, stop: int | None, step: int, size: Size | None) -> np.ndarray:
        if self.paths[i].suffix != ".pt":
            return super()._decode(i, start, stop, step, size)
        frames = _tensor(self.paths[i])
        wanted = check_range(os.fspath(self.paths[i]), len(frames), start, stop, step)
        some = frames.numpy()[wanted.start:wanted.stop:step]
        return some.copy() if size is None else resize_crop(some, size)


def _tensor(path: Path) -> Tensor:  # uint8 t h w 3
    frames = load_raw(path, mmap=True)
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        what = f"{frames.dtype} {tuple(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"{path}: holds {what}; wanted a tensor uint8 t h w 3")
    return frames
