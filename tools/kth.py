"""KTH actions: 25 persons, six actions; persons 1 to 20 are the train side, 21 to 25 the test side (as in SVG and MCVD)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tools.hdf5 import Hdf5Source
from tools.raw_source import RawSource
from tools.sources import SOURCES, VideoSource, check_split
from tools.tree import HDF5, FileSource, describe, find_videos, locate, of_split

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
_NAMES = ("kth", "kthactions", "kthdata")
_TRAIN_PERSONS = 20
_RECORDINGS = 599  # one of 600 was lost
_LIST = "00sequences.txt"
_RECORDING = re.compile(rf"person(\d\d)_({'|'.join(ACTIONS)})_d\d")
_LAYOUT = (f"wanted KTH/ACTION/person01_ACTION_d1_uncomp.avi or folders of frames of that name, with {_LIST} for the "
           "sequences in them, or KTH64_h5/shard_0001.hdf5, or the folder that holds it")


@SOURCES.register("KTH", folders=_NAMES)
def kth(path: str | os.PathLike, *, split: str = "all", segments: bool | None = None) -> VideoSource:
    """Open KTH. A video is a sequence of 00sequences.txt, in which somebody is seen, or a whole recording.

    Args:
        path: the dataset's folder or the one that holds it.
        split: train, test or all.
        segments: cut the recordings by the list; None does so where the list is, and where it is not, notes it.
    """
    check_split(split)
    root = locate(Path(path), _NAMES)
    found = find_videos(root, also=HDF5)
    shards = [p for p in found if p.suffix.lower() in HDF5 and (p.parent == root or p == root)]
    recordings = [p for p in found if _RECORDING.match(p.name)]
    source = None if recordings or not shards else _of_mcvd(shards, root, split, segments)
    if source:
        return source
    if not recordings:
        raise ValueError(f"{root}: holds no KTH recording ({describe(root)}; --data_path); {_LAYOUT}")
    files = [p for p in recordings if p.is_file()]
    places = (root, root.parent, *root.iterdir()) if root.is_dir() else ()
    listed = any((folder / _LIST).is_file() for folder in places)
    if segments or (segments is None and listed and files):
        from tools.raw_kth import kth as read  # it imports the sources
        raw = read(root)
        if raw is None:
            raise ValueError(f"{root}: holds folders of frames, and data.options.segments=true cuts video files; leave it out")
        return RawSource(raw, split, root, by_frame=False)
    notes = [] if len(recordings) == _RECORDINGS else [f"{root} holds {len(recordings)} of the {_RECORDINGS} recordings of KTH"]
    if segments is None and files:
        notes.append(f"no {_LIST} in {root}: videos are whole recordings, with the stretches in which nobody is seen")
    kept = of_split(recordings, split, lambda p: _side(int(_RECORDING.match(p.name)[1])), root)
    labels = [_RECORDING.match(p.name)[2] for p in kept]
    return FileSource(kept, root, notes, labels=labels, classes=ACTIONS)


def _side(person: int) -> str:
    return "train" if person <= _TRAIN_PERSONS else "test"


def _of_mcvd(shards: list[Path], root: Path, split: str, segments: bool | None) -> Hdf5Source | None:
    """Open MCVD's shards, which tell the person of each video; None where these are of something else."""
    source = Hdf5Source(shards, root, classes=ACTIONS)
    persons = [source.value("person", i) for i in range(len(source))]
    if None in persons:
        return None
    if segments:
        raise ValueError(f"{root}: holds whole recordings in HDF5, which data.options.segments=true cannot cut; leave it out")
    return source.only(of_split(list(range(len(source))), split, lambda i: _side(persons[i]), root))
