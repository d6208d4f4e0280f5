"""Clips for training: the only Dataset and its loader.

What a batch holds is a function of (seed, stream, global sample index) alone, whatever the number of
workers, processes and micro-batches, and wherever training was resumed.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tools.rng import numpy_rng
from tools.sources import SOURCES, VideoSource, check_split
from tools.video import resize_crop

MicroBatch = dict[str, Tensor]  # frames: uint8 b t h w c; index: int64 b, the global sample indices


@dataclass(frozen=True)
class DataConfig:
    """Which videos, and how clips are cut out of them."""
    name: str = "UCF101"
    path: str = ""            # the dataset's folder or its parent; empty: $VIDEO_DATA, or else /data
    split: str = "train"      # train | test | all
    fold: int = 1             # official split of UCF-101
    resolution: Any = 256     # pixels, or [height, width]
    frames: int = 16          # of a clip
    stride: int = 1           # distance in the video between neighbouring frames of a clip
    channels: int = 3         # 1 = grey
    workers: int = 2          # loading processes for each training process; 0 = load in the process itself
    on_error: str = "raise"   # "skip" leaves out damaged and short videos, and lists them
    options: dict[str, Any] = field(default_factory=dict)  # further options of the source

    def __post_init__(self):
        height, width = self.size
        wrong = {"resolution": min(height, width) < 1, "frames": self.frames < 1, "stride": self.stride < 1,
                 "workers": self.workers < 0, "channels": self.channels not in (1, 3),
                 "on_error": self.on_error not in ("raise", "skip")}
        wanted = {"resolution": "at least 1", "frames": "at least 1", "stride": "at least 1",
                  "workers": "0 or more", "channels": "1 or 3", "on_error": "raise or skip"}
        for key in wrong:
            if wrong[key]:
                raise ValueError(f"data.{key} must be {wanted[key]}, got {getattr(self, key)}")
        check_split(self.split)
        SOURCES.bind({"name": self.name, **self.options})  # an unknown name or option is told before a run is begun

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a clip."""
        sides = [self.resolution] * 2 if isinstance(self.resolution, int) else self.resolution
        if isinstance(sides, (str, bytes)) or not isinstance(sides, Sequence) or len(sides) != 2 \
                or not all(isinstance(side, int) for side in sides):
            raise ValueError(f"data.resolution must be a number or [height, width], got {self.resolution}")
        return sides[0], sides[1]


def open_source(cfg: DataConfig, split: str | None = None) -> VideoSource:
    """Open the configured dataset; `split` replaces the configured one, as validation needs."""
    options = {"split": cfg.split if split is None else split, **cfg.options}
    if "fold" in SOURCES.options(cfg.name):
        options.setdefault("fold", cfg.fold)
    path = cfg.path or os.environ.get("VIDEO_DATA") or "/data"
    return SOURCES.bind({"name": cfg.name, **options})(path)


class Clips(Dataset):
    """An endless, indexed supply of clips; sample g is the same in every process.

    Every epoch visits each video once, in an order drawn for that epoch, at a start drawn for that sample.

    Args:
        source: where the videos are.
        frames: frames of a clip.
        size: height and width.
        seed: of the run.
        stride: distance of neighbouring frames of a clip in the video.
        stream: name of the use, such as "train" or "validation"; streams are independent.
        on_error: "raise", or "skip" to take the epoch's next usable video in place of a damaged or short one.
        channels: 3, or 1 for grey.
    """

    def __init__(self, source: VideoSource, *, frames: int, size: tuple[int, int], seed: int, stride: int = 1,
                 stream: str = "train", on_error: str = "raise", channels: int = 3):
        self.source, self.frames, self.size, self.stride = source, frames, tuple(size), stride
        self.seed, self.stream, self.on_error, self.channels = seed, stream, on_error, channels
        self.skipped: dict[str, str] = {}  # name of the video -> why

    @classmethod
    def from_config(cls, source: VideoSource, cfg: DataConfig, *, seed: int, stream: str = "train") -> Clips:
        """Make clips as a DataConfig describes them."""
        return cls(source, frames=cfg.frames, size=cfg.size, seed=seed, stride=cfg.stride, stream=stream,
                   on_error=cfg.on_error, channels=cfg.channels)

    def __len__(self) -> int:
        return len(self.source)  # of an epoch; __getitem__ goes on beyond

    def __getitem__(self, g: int) -> dict[str, Any]:
        """Return sample g: frames uint8 t h w c, and index g."""
        n = len(self.source)
        order = _order(self.seed, self.stream, g // n, n)
        for attempt in range(n):
            video = int(order[(g + attempt) % n])
            try:
                return {"frames": torch.from_numpy(self._cut(video, g)), "index": g}
            except ValueError as error:
                if self.on_error == "raise":
                    raise
                self.skipped[self.source.name(video)] = str(error)
        last = next(reversed(self.skipped.values()))
        raise ValueError(f"data.on_error=skip left none of the {n} videos; the last was: {last}")

    def _cut(self, video: int, g: int) -> np.ndarray:  # t h w c
        need = (self.frames - 1) * self.stride + 1
        length = self.source.num_frames(video)
        if length < need:
            raise ValueError(_too_short(self.source.name(video), length, self.frames, self.stride))
        start = int(numpy_rng(self.seed, self.stream, "start", g).integers(length - need + 1))
        return fit(self.source.read(video, start, start + need, self.stride), self.size, self.channels)


def fit(frames: np.ndarray, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Bring uint8 t h w c to a size and a number of channels (grey is Rec. 601 luma)."""
    frames = resize_crop(frames, size)
    if frames.shape[-1] == channels:
        return np.ascontiguousarray(frames)
    if channels == 3:
        return np.repeat(frames, 3, axis=-1)
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(luma).astype(np.uint8)[..., None]


def _too_short(name: str, length: int, frames: int, stride: int) -> str:
    need = (frames - 1) * stride + 1
    shape = f"{frames} frames" + (f" at data.stride={stride}" if stride > 1 else "")
    return (f"video {name} has {length} frames, but a clip of {shape} needs {need}; "
            f"lower data.frames or leave such videos out with data.on_error=skip")


@lru_cache(maxsize=8)
def _order(seed: int, stream: str, epoch: int, n: int) -> np.ndarray:
    return numpy_rng(seed, stream, "epoch", epoch).permutation(n)


def check_batch(batch_size: int, world: int, micro_batch: int | None) -> int:
    """Return the number of micro-batches that each process sees in a step.

    Args:
        batch_size: samples of an optimizer update, over all processes.
        world: number of processes.
        micro_batch: samples that one process takes at once; None = its whole share.
    """
    share = batch_size // world
    micro = share if micro_batch is None else micro_batch
    if batch_size < 1 or micro < 1 or batch_size % (world * micro):
        parts = f"{world} processes" + ("" if micro_batch is None else f" x loop.micro_batch={micro_batch}")
        raise ValueError(f"--batch_size {batch_size} cannot be split evenly over {parts}; "
                         f"use a multiple of {world * max(micro_batch or 1, 1)}")
    return share // micro


def loader(clips: Clips, *, batch_size: int, start_step: int, stop_step: int, rank: int = 0, world: int = 1,
           micro_batch: int | None = None, workers: int = 0, pin: bool = False) -> Iterator[list[MicroBatch]]:
    """Yield for each step the micro-batches of this process, in order of global sample index.

    Sample j of step s has the global index s * batch_size + j; rank r takes j = r, r + world, ...

    Args:
        clips: where samples come from; what it skips in workers is gathered in its `skipped`.
        batch_size: samples of a step over all processes.
        start_step: first step; nothing before it is read.
        stop_step: end, exclusive.
        rank: this process.
        world: number of processes.
        micro_batch: samples of a micro-batch; None = all of this process in one.
        workers: loading processes; 0 loads here.
        pin: hand out page-locked memory, for a GPU.
    """
    rounds = check_batch(batch_size, world, micro_batch)
    keys = _Keys(batch_size, start_step, stop_step, rank, world, rounds)
    return _steps(clips, keys, rounds, workers, pin)


def _steps(clips, keys, rounds, workers, pin) -> Iterator[list[MicroBatch]]:
    batches = iter(DataLoader(_Batches(clips), sampler=keys, batch_size=None, num_workers=workers, pin_memory=pin,
                              worker_init_fn=_quiet if workers else None,
                              generator=torch.Generator()))  # its own: the loader must not draw from the run's
    gathered: list[MicroBatch] = []
    for batch in batches:
        if isinstance(batch, ValueError):
            raise batch
        clips.skipped.update(batch.pop("skipped"))
        gathered.append(batch)
        if len(gathered) == rounds:
            yield gathered
            gathered = []


class _Keys:
    """The global sample indices of each micro-batch of one process, step after step."""

    def __init__(self, batch_size: int, start: int, stop: int, rank: int, world: int, rounds: int):
        self.batch_size, self.start, self.stop = batch_size, start, stop
        self.rank, self.world, self.rounds = rank, world, rounds

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.rounds

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size
            mine = range(first + self.rank, first + self.batch_size, self.world)
            micro = len(mine) // self.rounds
            for i in range(0, len(mine), micro):
                yield list(mine[i:i + micro])


class _Batches(Dataset):
    """Whole micro-batches by their list of keys. A ValueError is handed over as a value, since a worker
    process would wrap it in a page of traceback."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __getitem__(self, keys: list[int]) -> dict[str, Any] | ValueError:
        try:
            samples = [self.clips[g] for g in keys]
        except ValueError as error:
            return ValueError(str(error))
        return {"frames": torch.stack([s["frames"] for s in samples]),
                "index": torch.tensor([s["index"] for s in samples]),
                "skipped": dict(self.clips.skipped)}


@atexit.register
def _end_workers() -> None:
    """A crash may leave workers behind. They do not hear the SIGTERM with which Python would end them, then wait."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take their end for another failure
    for worker in workers:
        worker.kill()


def _quiet(worker: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # they are for the main process, which saves and stops us
        signal.signal(signum, signal.SIG_IGN)


def windows(source: VideoSource, frames: int, starts: Sequence[int] | None = None, count: int | None = None,
            seed: int = 0, *, stride: int = 1, on_error: str = "raise") -> list[tuple[int, int]]:
    """Choose the windows of a test: (video, start), the same on every machine.

    Args:
        source: where the videos are; those that are left out, most often as too short, are listed in its `notes`.
        frames: frames of a window.
        starts: take every video at each of these starts that fits, video by video.
        count: without starts: so many windows, one a video in an order drawn by the seed, and then round again;
            None is one of every video.
        seed: of the drawing.
        stride: distance of neighbouring frames of a window in the video.
        on_error: "skip" leaves out damaged videos too.

    Raises:
        ValueError: no video is long enough, or one is damaged.
    """
    need = (frames - 1) * stride + 1
    left_out: list[str] = []

    def room(video: int) -> int:  # the number of starts that fit; 0 is noted
        try:
            length = source.num_frames(video)
        except ValueError:
            if on_error == "raise":
                raise
            length = 0
        if length < need:
            left_out.append(f"{source.name(video)} ({length or 'damaged'})")
        return max(0, length - need + 1)

    if starts:
        room_of = [room(video) for video in range(len(source))]
        chosen = [(video, start) for video, fits in enumerate(room_of) for start in starts if start < fits]
    else:
        chosen = _drawn(room, len(source), count, seed)
    if left_out:
        source.notes.append(f"{len(left_out)} of {len(source)} videos are left out, shorter than {need} frames: "
                            f"{', '.join(left_out[:20])}{' ...' if len(left_out) > 20 else ''}")
    if not chosen:
        some = f": {', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}" if left_out else ""
        raise ValueError(f"none of the {len(source)} videos has a window of {need} frames"
                         f"{f' at the starts {list(starts)}' if starts else ''}{some}; ask for fewer --frames")
    return chosen


def read_windows(source: VideoSource, chosen: Sequence[tuple[int, int]], frames: int, *, stride: int = 1,
                 on_error: str = "raise") -> Iterator[tuple[int, int, np.ndarray]]:
    """Read chosen windows: (video, start, uint8 t h w c); with on_error="skip" the damaged are noted at the source.

    Raises:
        ValueError: a window is damaged, or with "skip" all are.
    """
    left, error = 0, None
    for video, start in chosen:
        try:
            pixels = source.read(video, start, start + (frames - 1) * stride + 1, stride)
        except ValueError as damage:
            if on_error == "raise":
                raise
            error = damage
            source.notes.append(f"left out is {source.name(video)} from frame {start} on: {damage}")
        else:
            left += 1
            yield video, start, pixels
    if error and not left:
        raise ValueError(f"data.on_error=skip left none of the {len(chosen)} windows; the last: {error}")


def _drawn(room, videos: int, count: int | None, seed: int) -> list[tuple[int, int]]:
    chosen: list[tuple[int, int]] = []
    order = numpy_rng(seed, "windows").permutation(videos).tolist()
    room = cache(room)  # a later round must not note a short video again
    while len(chosen) < (videos if count is None else count):
        for video in order:
            if len(chosen) != count and room(video):
                rng = numpy_rng(seed, "windows", "start", len(chosen))
                chosen.append((video, int(rng.integers(room(video)))))
        if not chosen or count is None:
            break
    return chosen
