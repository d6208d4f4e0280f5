"""BAIR robot pushing as downloaded: softmotion30_44k/{train,test}/*.tfrecords, a trajectory a record."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from tools.bair import NUMBERS
from tools.raw import READERS, RawVideo
from tools.raw_tfrecord import Span, parse_example, peek, read_record, spans
from tools.tree import natural

_SUFFIXES = {".tfrecord", ".tfrecords"}
_CAMERAS = {"aux1": "image_aux1", "main": "image_main"}
_FRAME = re.compile(r"(\d+)/(\w+)/encoded")
_SIDE = 64  # pixels of a frame that is stored as it is


@READERS.register("BAIR")
def bair(path: Path, *, camera: str = "aux1") -> BAIR | None:
    """BAIR is softmotion30_44k/train/*.tfrecords and test/*.tfrecords.

    Args:
        path: softmotion30_44k, or a folder that holds it, or one file.
        camera: aux1 (the one that papers use) or main.
    """
    files = [path] if path.is_file() else sorted((p for p in path.rglob("*") if p.is_file()), key=natural)
    files = [p for p in files if p.suffix in _SUFFIXES]
    if not files:
        return None
    if camera not in _CAMERAS:
        raise ValueError(f"camera must be one of {', '.join(_CAMERAS)}, got {camera}")
    return BAIR(path, files, _CAMERAS[camera])


class BAIR:
    """Trajectories in the order of the files.

    Args:
        path: the folder.
        files: TFRecord files.
        camera: name of the images in the records.
    """

    channels = 3

    def __init__(self, path: Path, files: list[Path], camera: str):
        self.classes, self.notes, self._root, self._camera = [], [], path, camera
        self._records: list[tuple[Path, int, Span | str]] = []  # file, number, where it lies or what is wrong
        for file in files:
            try:
                for number, span in enumerate(spans(file)):
                    self._records.append((file, number, span))
            except ValueError as error:
                self._records.append((file, sum(1 for r in self._records if r[0] == file), str(error)))

    def __len__(self) -> int:
        return len(self._records)

    def video(self, i: int) -> RawVideo:
        """Describe trajectory i: file and number of the record; the side is the folder that the file is in."""
        file, number, _ = self._records[i]
        origin = os.path.relpath(file, self._root) if file != self._root else file.name
        sides = [part for part in reversed(file.absolute().parts[:-1]) if part in ("train", "test", "val")]
        name = "_".join(Path(origin).with_suffix("").parts)
        return RawVideo(f"{name}_{number:04d}", f"{origin}#{number}", tuple(sides[:1]))

    def num_frames(self, i: int) -> int:
        """Count the frames by their names."""
        file, number, span = self._records[i]
        if isinstance(span, str):
            raise ValueError(span)
        times = sorted(int(m[1]) for name in peek(file, span) if (m := _FRAME.fullmatch(name)) and m[2] == self._camera)
        if not times or times != list(range(len(times))):
            raise ValueError(f"{file}: record {number} holds {len(times)} frames of {self._camera}, with gaps or none; "
                             "choose another camera=, or download the file again")
        return len(times)

    def read(self, i: int, start: int, stop: int) -> np.ndarray:
        """Return frames of trajectory i -> uint8 t h w 3; the record's checksum is verified."""
        file, _, span = self._records[i]
        example = parse_example(read_record(file, span), file)
        return np.stack([_image(example.get(f"{t}/{self._camera}/encoded"), file) for t in range(start, stop)])


    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """Return what the arm was told and where it was, float32 t n, as far as the record says so of every frame."""
        file, _, span = self._records[i]
        example, count = parse_example(read_record(file, span), file), self.num_frames(i)
        found = {name: [example.get(f"{t}/{name}") for t in range(count)] for name in NUMBERS}
        return {name: np.stack(rows) for name, rows in found.items() if all(isinstance(row, np.ndarray) for row in rows)}


def _image(values: list[bytes] | np.ndarray | None, path: Path) -> np.ndarray:  # h w 3
    if isinstance(values, list) and len(values) == 1:
        if len(values[0]) == _SIDE * _SIDE * 3:
            return np.frombuffer(values[0], np.uint8).reshape(_SIDE, _SIDE, 3)
        try:
            with Image.open(io.BytesIO(values[0])) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            pass
    raise ValueError(f"{path}: holds a frame that is neither {_SIDE}x{_SIDE} raw pixels nor a picture; download the file again")
