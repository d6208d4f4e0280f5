"""BAIR robot pushing: 30 frames of 64x64 from two cameras, as TFRecords, MCVD's HDF5, frame folders or npz."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tools.joined import open_files
from tools.raw_source import RawSource
from tools.sides import Layout, find_sided
from tools.sources import SOURCES, VideoSource, check_split
from tools.tree import FileSource, Size, check_range, locate
from tools.video import npy_head, resize_crop

_LAYOUT = Layout(("bair", "bairpushing", "bairrobotpushing", "bairrobotpushingsmall", "softmotion", "softmotion3044k",
                  "processeddata"),
                 wanted="wanted softmotion30_44k/{train,test}/*.tfrecords, BAIR_h5/{train,test}/shard_0001.hdf5, "
                        "bair/{train,test}/TRAJECTORY/0.png or bair/{train,test}/*.npz, or the folder that holds it")
NUMBERS = ("action", "endeffector_pos")  # rows for frames
_KEYS = {"aux1": ("image_aux1", "aux1_image"), "main": ("image_main", "image")}  # of an npz


@SOURCES.register("BAIR", folders=_LAYOUT.folders)
def bair(path: str | os.PathLike, *, split: str = "all", camera: str = "aux1") -> VideoSource:
    """Open BAIR; the published numbers are of the camera aux1.

    Args:
        path: the dataset's folder or the one that holds it.
        split: train, test or all.
        camera: aux1 or main, where the files (TFRecords, npz) hold both.
    """
    if camera not in _KEYS:
        raise ValueError(f'data.options.camera must be aux1 or main, got "{camera}"')
    check_split(split)
    root = locate(Path(path), _LAYOUT.folders)
    records = [p for side in (root, *_LAYOUT.sides(root).values()) for p in side.glob("*.tfrecord*") if p.is_file()]
    if records:
        from tools.raw_bair import bair as read  # it imports the sources
        return RawSource(read(root, camera=camera), split, root, by_frame=False)
    found = find_sided(Path(path), split, _LAYOUT)
    both = [p.suffix.lower() == ".npz" for p in found.paths]
    if all(both):
        return Trajectories(found.paths, found.root, camera)
    if any(both) or camera != "aux1":
        what = "npz and other files" if any(both) else "files that show one camera"
        raise ValueError(f"{found.root}: holds {what}; data.options.camera={camera} needs npz or TFRecords alone")
    return open_files(found.paths, found.root)


class Trajectories(FileSource):
    """One npz a trajectory, with an array t h w 3 for each camera.

    Args:
        paths: one path a trajectory.
        root: the folder they are named relative to.
        camera: a key of _KEYS.
    """

    def __init__(self, paths: list[Path], root: Path, camera: str):
        super().__init__(paths, root)
        self._keys = _KEYS[camera]

    def num_frames(self, i: int) -> int:
        """Return the length that the array's head states."""
        with self._array(i) as (_, shape, _):
            return shape[0]

    def _decode(self, i: int, start: int, stop: int | None, step: int, size: Size | None) -> np.ndarray:
        with self._array(i) as (file, shape, dtype):
            wanted = check_range(os.fspath(self.paths[i]), shape[0], start, stop, step)
            bytes_each = math.prod(shape[1:]) * dtype.itemsize
            file.seek(wanted.start * bytes_each, os.SEEK_CUR)
            data = file.read((wanted[-1] + 1 - wanted.start) * bytes_each)
            frames = np.frombuffer(data, dtype).reshape(-1, *shape[1:])[::step]
        if frames.min() < 0 or frames.max() > 255:
            raise ValueError(f"{self.paths[i]}: values {frames.min()}..{frames.max()}; wanted 0..255")
        return frames.astype(np.uint8) if size is None else resize_crop(frames.astype(np.uint8), size)

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """Return the actions t 4 and what else the file holds of the arm, by name."""
        path = self.paths[i]
        try:
            with np.load(path, allow_pickle=False) as held:
                return {name: held[name] for name in NUMBERS if name in held.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: the actions in it are damaged ({error}); replace or remove it") from None

    @contextlib.contextmanager
    def _array(self, i: int) -> Iterator[tuple[BinaryIO, tuple[int, ...], np.dtype]]:
        """Give the array of the camera, read up to its pixels, with its shape and type."""
        path = self.paths[i]
        try:
            with zipfile.ZipFile(path) as archive:
                keys = [name.removesuffix(".npy") for name in archive.namelist()]
                key = next((key for key in self._keys if key in keys), None)
                if key is None:
                    raise ValueError(f"{path}: holds {', '.join(keys) or 'nothing'}; wanted an array {' or '.join(self._keys)}")
                with archive.open(f"{key}.npy") as file:
                    shape, by_columns, dtype = npy_head(file)
                    if len(shape) != 4 or shape[-1] != 3 or dtype.kind not in "iu" or by_columns or not shape[0]:
                        raise ValueError(f"{path}: {key} is {dtype} of shape {shape}; wanted whole numbers t h w 3")
                    yield file, shape, dtype
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged or not an npz ({error}); replace or remove it, "
                             f"or skip such files with data.on_error=skip") from None
