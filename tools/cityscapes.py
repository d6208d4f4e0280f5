"""Cityscapes: snippets of 30 frames, as downloaded (folders or zips) or as MCVD's HDF5."""

from __future__ import annotations

import os
from pathlib import Path

from tools.joined import open_files
from tools.raw_source import RawSource
from tools.sides import Layout, find_sided
from tools.sources import SOURCES, VideoSource, check_split
from tools.tree import HDF5, describe, is_called, locate

_LAYOUT = Layout(("cityscapes", "leftimg8bitsequence", "leftimg8bitsequencetrainvaltest"),
                 ours=lambda path: path.suffix.lower() in HDF5,
                 wanted="wanted leftImg8bit_sequence/{train,val,test}/CITY/CITY_000000_000000_leftImg8bit.png or its zip, or "
                        "Cityscapes128_h5/{train,val,test}/shard_0001.hdf5, or the folder that holds it")


@SOURCES.register("CITYSCAPES", folders=_LAYOUT.folders)
def cityscapes(path: str | os.PathLike, *, split: str = "all") -> VideoSource:
    """Open Cityscapes; the test side is the test folder, or where there is none, val.

    Args:
        path: the dataset's folder or the one that holds it.
        split: train, test or all (with val).
    """
    from tools.raw_cityscapes import cityscapes as read  # it imports the sources

    check_split(split)
    root = locate(Path(path), _LAYOUT.folders)
    if not (is_called(root, _LAYOUT.folders) or _LAYOUT.sides(root) or any(root.glob("leftImg8bit_sequence*.zip"))):
        raise ValueError(f"{root}: holds no Cityscapes ({describe(root)}; --data_path); {_LAYOUT.wanted}")
    raw = read(root)
    if raw is not None:
        return RawSource(raw, split, root, by_frame=True)
    found = find_sided(root, split, _LAYOUT)
    return open_files(found.paths, found.root)
