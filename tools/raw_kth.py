"""KTH as downloaded: AVIs of whole recordings, and the list that says in which frames somebody is seen."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.raw import READERS, RawVideo
from tools.tree import find_videos
from tools.video import num_frames, read_video

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
TRAIN_PERSONS = 20  # of 25; the protocol of SVG and of those after it
LIST = "00sequences.txt"
_RECORDING = re.compile(rf"person(\d\d)_({'|'.join(ACTIONS)})_d\d")
_FIRST_LAST = re.compile(r"(\d+)\s*-\s*(\d+)")


class _Sequence(NamedTuple):
    path: Path
    name: str
    start: int        # first frame, from 0
    stop: int | None  # end, exclusive; None = of the recording
    train: bool
    label: int


@READERS.register("KTH")
def kth(path: Path, *, segments: bool = True) -> KTH | None:
    """KTH is personNN_ACTION_dN_uncomp.avi, flat or in folders, and 00sequences.txt among or above them.

    Args:
        path: the folder that holds them.
        segments: cut recordings into the sequences of the list, four of most; else each recording is one video,
            with the stretches in which nobody is seen.
    """
    if not path.is_dir():
        return None
    files = {m[0]: p for p in find_videos(path) if p.is_file() and (m := _RECORDING.match(p.name))}
    if not files:
        return None
    return KTH(path, files, segments)


class KTH:
    """The sequences of the recordings that are there.

    Args:
        path: the folder.
        files: recording, such as person01_boxing_d1 -> its file.
        segments: cut by the list.
    """

    channels = 1

    def __init__(self, path: Path, files: dict[str, Path], segments: bool):
        self.classes, self.notes, self._root = list(ACTIONS), [], path
        self._sequences: list[_Sequence] = []
        listed = read_list(_find_list(path)) if segments else {}
        for recording in sorted(files):
            match = _RECORDING.match(recording)
            known = int(match[1]) <= TRAIN_PERSONS, ACTIONS.index(match[2])
            if not segments:
                self._sequences.append(_Sequence(files[recording], recording, 0, None, *known))
            for number, (first, last) in enumerate(listed.get(recording, ()), 1):
                self._sequences.append(_Sequence(files[recording], f"{recording}_{number}", first - 1, last, *known))
        if segments:
            self._tell("of the listed recordings are absent", len(listed), [r for r in listed if r not in files])
            self._tell("recordings are not in the list and left out", len(files), [f for f in files if f not in listed])

    def _tell(self, what: str, total: int, which: list[str]) -> None:
        if which:
            self.notes.append(f"{len(which)} of {total} {what}: {', '.join(which[:5])}{', ...' if len(which) > 5 else ''}")

    def __len__(self) -> int:
        return len(self._sequences)

    def video(self, i: int) -> RawVideo:
        """Describe sequence i: its recording and frames from 1 as in the list, side by person, class by action."""
        sequence = self._sequences[i]
        frames = "" if sequence.stop is None else f"#{sequence.start + 1}-{sequence.stop}"
        return RawVideo(sequence.name, os.path.relpath(sequence.path, self._root) + frames,
                        ("train" if sequence.train else "test",), sequence.label)

    def num_frames(self, i: int) -> int:
        """Return the length; the list goes a few frames beyond the end of some recordings."""
        sequence, whole = self._sequences[i], num_frames(self._sequences[i].path)
        count = min(whole, whole if sequence.stop is None else sequence.stop) - sequence.start
        if count <= 0:
            raise ValueError(f"{sequence.path}: has {whole} frames, but {LIST} lists {sequence.start + 1}-{sequence.stop}; "
                             "download it again")
        return count

    def read(self, i: int, start: int, stop: int) -> np.ndarray:
        """Return frames of sequence i -> uint8 t h w 3."""
        sequence = self._sequences[i]
        return read_video(sequence.path, sequence.start + start, sequence.start + stop)


def _find_list(path: Path) -> Path:
    for folder in (path, *path.absolute().parents[:1], *(p for p in sorted(path.iterdir()) if p.is_dir())):
        if (folder / LIST).is_file():
            return folder / LIST
    raise ValueError(f"{path}: has no {LIST}, which says in which frames of a recording somebody is seen; put the list from "
                     f"the dataset's page there, or take whole recordings with segments=false")


def read_list(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Read 00sequences.txt: recording -> (first, last) frame of each sequence, from 1, inclusive."""
    listed: dict[str, list[tuple[int, int]]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _RECORDING.match(line.strip())
        spans = [(int(a), int(b)) for a, b in _FIRST_LAST.findall(line.strip()[match.end():])] if match else []
        wrong = [f"{a}-{b}" for a, b in spans if not 1 <= a <= b]
        if wrong:
            raise ValueError(f"{path}: {match[0]} lists the frames {wrong[0]}; download the list again")
        if spans:  # one recording is said to be missing
            listed[match[0]] = spans
    if not listed:
        raise ValueError(f'{path}: lists no sequence; wanted lines such as "person01_boxing_d1 frames 1-95, 96-185"')
    return listed
