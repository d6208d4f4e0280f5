"""The windows of a dataset that are encoded, and their pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from tools import dist
from tools.clips import DataConfig
from tools.fit import read_fit
from tools.mixture import parts_of
from tools.rng import numpy_rng
from tools.sources import VideoSource
from tools.windows import Starts, centre, every, span

RUN = 64  # windows of a video that are read together


class Windows(NamedTuple):
    """Windows of a dataset, video by video."""
    frames: int          # of a window
    stride: int          # of its frames in the video
    lengths: np.ndarray  # v int64: of the videos; 0 = left out
    video: np.ndarray    # w int64
    start: np.ndarray    # w int64, ascending within a video
    left_out: list[str]

    @property
    def need(self) -> int:
        """Frames of the video that a window reaches over."""
        return span(self.frames, self.stride)


class Run(NamedTuple):
    """Windows of one video that are near each other, by their numbers."""
    video: int
    windows: range


def one_stride(data: DataConfig, source: VideoSource) -> int:
    """The distance of a window's frames, if it is the same for all windows."""
    strides = {stride for part in parts_of(source) for stride in part.strides or data.strides}
    if len(strides) > 1:
        raise ValueError(f"latents are cached for one data.stride, got {sorted(strides)}; give one of them")
    return strides.pop()


def choose_windows(source: VideoSource, data: DataConfig, frames: int, *, hop: int | None = None, per_video: int = 0,
                   seed: int = 0, images: bool = False) -> Windows:
    """Lay windows over every video.

    Args:
        frames: of a window.
        hop: frames from one to the next; the last one of a video is always there. None is what data.windows says, where
            random ones are all that there are.
        per_video: so many at random places in their stead, if not 0.
        seed: of the drawing.
        images: where no video holds `frames`, windows are single images.
    """
    stride = one_stride(data, source)
    lengths, left_out = _lengths(source, data.on_error)
    if images and lengths.max(initial=0) < span(frames, stride):
        frames = 1
    need = span(frames, stride)
    for i in np.flatnonzero((lengths > 0) & (lengths < need)).tolist():
        short = f"{source.name(i)} has {lengths[i]} frames, but a window of {frames} frames needs {need}"
        if data.on_error == "raise":
            raise ValueError(f"video {short}; leave such videos out with data.on_error=skip")
        left_out.append(short)
        lengths[i] = 0
    usual: dict[str, Starts] = {"random": every(1), "centre": centre, "strided": every(data.hop or need)}
    rule = every(hop) if hop else usual[data.windows]
    rooms = [int(length) - need + 1 if length else 0 for length in lengths]
    starts = [_drawn(room, per_video, seed, i) if 0 < per_video < room else list(rule(room)) for i, room in enumerate(rooms)]
    if not any(starts):
        short = f" ({left_out[0]})" if left_out else ""
        raise ValueError(f"none of the {len(source)} videos has a window of {need} frames{short}; "
                         "give longer videos, or a condition that looks at fewer clips")
    video = np.repeat(np.arange(len(source)), [len(row) for row in starts])
    return Windows(frames, stride, lengths, video, np.array([start for row in starts for start in row], np.int64), left_out)


def _lengths(source: VideoSource, on_error: str) -> tuple[np.ndarray, list[str]]:
    """Of all videos, 0 of the damaged, and what is to be said of these."""
    lengths, left_out = np.zeros(len(source), np.int64), []
    for i in tqdm(range(len(source)), desc="lengths", unit="video", delay=2, disable=None if dist.is_main() else True):
        try:
            lengths[i] = source.num_frames(i)
        except ValueError as error:
            if on_error == "raise":
                raise
            left_out.append(f"{source.name(i)}: {error}")
    return lengths, left_out


def _drawn(room: int, count: int, seed: int, video: int) -> list[int]:
    return sorted(numpy_rng(seed, "encode", "start", video).choice(room, count, replace=False).tolist())


def cut_runs(windows: Windows, span: range) -> Iterator[Run]:
    """Cut these windows where the video changes, or where neighbours share no frame."""
    first = span.start
    for w in range(span.start + 1, span.stop + 1):
        if w == span.stop or w - first == RUN or windows.video[w] != windows.video[first] \
                or windows.start[w] - windows.start[w - 1] >= windows.need:
            yield Run(int(windows.video[first]), range(first, w))
            first = w


class RunPixels(NamedTuple):
    pixels: Tensor | None  # uint8 t h w c
    offset: list[int]      # where in them each window of the run begins; -1: it is damaged
    left_out: list[str]


class Runs(Dataset):
    """The pixels of runs, each read once however many of its windows share it. A ValueError is handed over as a value, since
    a worker process would wrap it in a page of traceback."""

    def __init__(self, source: VideoSource, data: DataConfig, windows: Windows, runs: list[Run]):
        self.source, self.data, self.windows, self.runs = source, data, windows, runs

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, k: int) -> RunPixels | ValueError:
        video, numbers = self.runs[k]
        starts = self.windows.start[numbers.start:numbers.stop].tolist()
        try:
            pixels = self._read(video, starts[0], starts[-1] + self.windows.need)
            return RunPixels(pixels, [start - starts[0] for start in starts], [])
        except ValueError as error:
            if self.data.on_error == "raise":
                return ValueError(str(error))
        return self._one_by_one(video, starts)

    def _one_by_one(self, video: int, starts: list[int]) -> RunPixels:
        parts, offsets, left_out = [], [], []
        for start in starts:
            try:
                parts.append(self._read(video, start, start + self.windows.need))
                offsets.append((len(parts) - 1) * self.windows.need)
            except ValueError as error:
                offsets.append(-1)
                left_out.append(f"{self.source.name(video)} from frame {start} on: {error}")
        return RunPixels(torch.cat(parts) if parts else None, offsets, left_out)

    def _read(self, video: int, start: int, stop: int) -> Tensor:
        data = self.data
        return torch.from_numpy(read_fit(self.source, video, start, stop, 1, data.size, data.channels, data.resize))


def windows_of(run: Run, read: RunPixels, windows: Windows, most: int) -> Iterator[tuple[int, Tensor]]:
    """Sound windows of a run, at most so many neighbours at once: the number of the first, and uint8 w t h w c."""
    group: list[Tensor] = []
    for number, offset in zip(run.windows, read.offset, strict=True):
        if offset >= 0:
            group.append(read.pixels[offset:offset + windows.need:windows.stride])
        if group and (offset < 0 or len(group) == most or number == run.windows[-1]):
            yield number - len(group) + (offset >= 0), torch.stack(group)
            group = []
