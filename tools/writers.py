"""Write videos for people to look at: mp4, gif, png, grids and strips. Frames are uint8 t h w c, c = 1 or 3."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

_WHITE, _RED = 255, (220, 40, 40)


class Mp4Writer:
    """Write uint8 t h w c as H.264 that every player shows, piece by piece; an odd side grows by one repeated pixel line.

    Example:
        with Mp4Writer("video.mp4") as writer:
            writer.write(frames)
    """

    def __init__(self, path: str | os.PathLike, fps: float = 10):
        self._container = av.open(_parent(path), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=_rate(fps), options={"crf": "12", "preset": "medium"})
        self._stream.pix_fmt = "yuv420p"
        self._begun = False

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, *error) -> None:
        if self._begun and error[0] is None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 t h w c, all of the size of the first ones."""
        frames = _rgb(frames)
        height, width = frames.shape[1:3]
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if not self._begun:
            self._stream.height, self._stream.width = frames.shape[1:3]
            self._begun = True
        for image in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._container.mux(self._stream.encode(image))


def write_mp4(path: str | os.PathLike, frames: np.ndarray, fps: float = 10) -> None:
    """Write uint8 t h w c at once; see Mp4Writer."""
    frames = _rgb(frames)  # before there is a file
    with Mp4Writer(path, fps) as writer:
        writer.write(frames)


def write_gif(path: str | os.PathLike, frames: np.ndarray, fps: float = 10) -> None:
    """Write uint8 t h w c as an endless gif, with one best palette for each frame.

    The frame count is kept: PIL's own writer merges equal neighbours, so that a still video would shrink.
    """
    frames = _rgb(frames)
    with av.open(_parent(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=_rate(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "pal8"
        for number, image in enumerate(frames):
            frame = _paletted(image)
            frame.pts, frame.time_base = number, 1 / _rate(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_npz(path: str | os.PathLike, videos: Iterable[np.ndarray], count: int) -> None:
    """Write `count` uint8 t h w c of one shape as the array `arr_0`, uint8 n t h w c, one of them in memory at a time."""
    shape, number = None, 0
    with zipfile.ZipFile(_parent(path), "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
        for number, frames in enumerate(videos, 1):
            if shape is None:
                shape = frames.shape
                np.lib.format.write_array_header_1_0(file, {"descr": np.lib.format.dtype_to_descr(frames.dtype),
                                                            "fortran_order": False, "shape": (count, *shape)})
            if frames.shape != shape:
                raise ValueError(f"video {number} of {count} is {frames.shape} (t h w c), the first is {shape}; an npz holds "
                                 "videos of one shape only")
            file.write(np.ascontiguousarray(frames))
    assert number == count, f"{number} videos, said to be {count}"


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write uint8 h w c."""
    Image.fromarray(_rgb(image[None])[0]).save(_parent(path), format="PNG")


def grid_frames(videos: Sequence[np.ndarray], columns: int | None = None, pad: int = 2) -> np.ndarray:
    """Lay videos side by side -> uint8 t H W c; a shorter one holds its last frame.

    Args:
        videos: uint8 t h w c each, of one size.
        columns: videos in a row; None makes the grid about square.
        pad: white pixels between them.
    """
    assert len(videos), "a grid of no video"
    columns = columns or math.ceil(math.sqrt(len(videos)))
    rows = math.ceil(len(videos) / columns)
    length = max(len(video) for video in videos)
    height, width, channels = videos[0].shape[1:]
    canvas = np.full((length, rows * (height + pad) - pad, columns * (width + pad) - pad, channels), _WHITE, np.uint8)
    for number, video in enumerate(videos):
        top, left = number // columns * (height + pad), number % columns * (width + pad)
        held = np.minimum(np.arange(length), len(video) - 1)
        canvas[:, top:top + height, left:left + width] = video[held]
    return canvas


def strip(videos: Sequence[np.ndarray], every: int = 1, known: Sequence[bool] | None = None,
          pad: int = 2) -> np.ndarray:
    """Lay videos out in time -> uint8 h w 3: one row a video, one column a frame.

    Args:
        videos: uint8 t h w c each, of one size.
        every: show every n-th frame.
        known: for each frame (before thinning) whether it was given; those get a red border.
        pad: pixels between the frames; the border is as wide.
    """
    length = max(len(video) for video in videos)
    shown = range(0, length, every)
    height, width = videos[0].shape[1:3]
    canvas = np.full((len(videos) * (height + pad) + pad, len(shown) * (width + pad) + pad, 3), _WHITE, np.uint8)
    for row, video in enumerate(videos):
        top = row * (height + pad)
        for column, number in enumerate(shown):
            left = column * (width + pad)
            if number >= len(video):
                continue
            if known is not None and known[number]:
                canvas[top:top + height + 2 * pad, left:left + width + 2 * pad] = _RED
            canvas[top + pad:top + pad + height, left + pad:left + pad + width] = _rgb(video[number][None])[0]
    return canvas


def _rgb(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] in (1, 3) and frames.size, \
        f"wanted uint8 t h w c, got {frames.dtype} {frames.shape}"
    return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames


def _parent(path: str | os.PathLike) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return os.fspath(path)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1000)


def _paletted(image: np.ndarray) -> av.VideoFrame:
    small = Image.fromarray(image).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours = np.zeros((256, 4), np.uint8)
    used = np.array(small.getpalette(), np.uint8).reshape(-1, 3)
    colours[:len(used), 1:] = used
    colours[:, 0] = 255  # A R G B, opaque
    return av.VideoFrame.from_ndarray((np.asarray(small), colours), format="pal8")
