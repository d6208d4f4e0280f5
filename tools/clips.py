"""Clips for training: the only Dataset.

What a batch holds is a function of (seed, stream, global sample index) alone, whatever the number of
workers, processes and micro-batches, and wherever training was resumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from tools.fit import RESIZES, fit, read_fit, turn_hue
from tools.listing import compact
from tools.loading import MicroBatch, check_batch, loader
from tools.mixture import Mixture, Part, parts_of
from tools.order import dealt, shuffled
from tools.registry import nearest
from tools.rng import numpy_rng
from tools.sources import SOURCES, VideoSource, check_split
from tools.windows import read_windows, span, strided, strided_count, windows

__all__ = ["Clips", "DataConfig", "MicroBatch", "check_batch", "fit", "loader", "open_source", "read_windows", "windows"]

WINDOWS = ("random", "centre", "strided")


@dataclass(frozen=True)
class DataConfig:
    """Which videos, and how clips are cut out of them."""
    name: str = "UCF101"
    path: str = ""            # the dataset's folder or its parent; empty: $VIDEO_DATA, or else /data
    split: str = "train"      # train | test | all
    fold: int = 1             # official split of UCF-101
    digits: str | None = None  # of SMMNIST: mnist (the files at the path), or sklearn for scikit-learn's
    resolution: Any = 256     # pixels, or [height, width]
    frames: int = 16          # of a clip
    stride: Any = 1           # distance in the video between neighbouring frames of a clip; of a list each clip draws one
    windows: str = "random"   # which of a video training takes: random | centre | strided (one each `hop` frames)
    hop: int | None = None    # of strided windows; none: side by side
    resize: str = "crop"      # crop the centre | pad with black bars | stretch
    hue: float = 0.0          # largest part of the colour circle, 0 to 0.5, by which the hue of a training clip is turned
    channels: int = 3         # 1 = grey
    workers: int = 2          # loading processes for each training process; 0 = load in the process itself
    on_error: str = "raise"   # "skip" leaves out damaged and short videos, and lists them
    options: dict[str, Any] = field(default_factory=dict)  # further options of the source
    # several datasets in place of one: {name, weight, path, split, fold, digits, stride, options} each, of which name is needed
    mixture: list[Any] = field(default_factory=list)

    def __post_init__(self):
        height, width = self.size
        wrong = {"resolution": min(height, width) < 1, "frames": self.frames < 1, "stride": not _is_stride(self.stride),
                 "workers": self.workers < 0, "channels": self.channels not in (1, 3),
                 "on_error": self.on_error not in ("raise", "skip"), "windows": self.windows not in WINDOWS,
                 "hop": self.hop is not None and self.hop < 1, "resize": self.resize not in RESIZES,
                 "hue": not 0 <= self.hue <= 0.5}
        wanted = {"resolution": "at least 1", "frames": "at least 1", "stride": "at least 1, or a list of such",
                  "workers": "0 or more", "channels": "1 or 3", "on_error": "raise or skip",
                  "windows": " or ".join(WINDOWS), "hop": "at least 1", "resize": " or ".join(RESIZES), "hue": "0 to 0.5"}
        for key in wrong:
            if wrong[key]:
                raise ValueError(f"data.{key} must be {wanted[key]}, got {getattr(self, key)}")
        if self.hop is not None and self.windows != "strided":
            raise ValueError(f"data.hop={self.hop} is for data.windows=strided, got data.windows={self.windows}; set that, "
                             "or leave the hop out")
        if self.hue and self.channels == 1:
            raise ValueError(f"data.hue={self.hue} turns colours, but frames are grey (data.channels=1); leave it out")
        check_split(self.split)
        if self.mixture:
            self._check_mixture()
        else:
            SOURCES.bind({"name": self.name, **self._given})  # an unknown name or option is told before a run is begun

    @property
    def _given(self) -> dict[str, Any]:
        """The options that were given for the source."""
        return ({} if self.digits is None else {"digits": self.digits}) | self.options

    def _check_mixture(self) -> None:
        """Refuse entries that make no sense, and take the name of all of them together."""
        for number, entry in enumerate(self.mixture):
            if not isinstance(entry, Mapping) or "name" not in entry:
                raise ValueError(f"data.mixture[{number}] must name a dataset, like {{name: SKY, weight: 2}}, got {entry}")
            for key in entry:
                if key not in _ENTRY:
                    raise ValueError(f'data.mixture[{number}] has no key "{key}"{nearest(key, _ENTRY)}; valid: '
                                     f"{', '.join(_ENTRY)}")
            weight = entry.get("weight", 1)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                raise ValueError(f"data.mixture[{number}].weight must be above 0, got {weight}")
        together = "+".join(str(entry["name"]) for entry in self.mixture)
        if self.name not in (type(self).name, together):
            raise ValueError(f"data.name={self.name} (--data) and data.mixture of {together} both say what the videos are; "
                             "leave one of them out, as with data.mixture=[]")
        if self._given:
            raise ValueError(f"data.options={self._given} would be for all of data.mixture; write them into its entries")
        object.__setattr__(self, "name", together)  # of the run folder
        for number in range(len(self.mixture)):
            try:
                self.part(number)
            except ValueError as error:
                raise ValueError(f"data.mixture[{number}]: {error}") from None

    def part(self, number: int) -> DataConfig:
        """One dataset of the mixture; what its entry does not say is as for all."""
        entry = {key: value for key, value in self.mixture[number].items() if key != "weight"}
        return replace(self, **{"mixture": [], "options": {}} | entry)

    @property
    def labels(self) -> list[str]:
        """Of the datasets of a mixture: their names, numbered where two are alike."""
        names = [str(entry["name"]) for entry in self.mixture]
        return [name if names.count(name) == 1 else f"{name}{names[:i + 1].count(name)}" for i, name in enumerate(names)]

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides from which a clip draws."""
        return (self.stride,) if isinstance(self.stride, int) else tuple(self.stride)

    def own_strides(self, entry: Mapping[str, Any]) -> tuple[int, ...]:
        """The strides of one dataset of the mixture, where it has its own."""
        return replace(self, mixture=[], name=entry["name"], stride=entry["stride"]).strides if "stride" in entry else ()

    @property
    def one_stride(self) -> int:
        """The stride, where only one makes sense."""
        if len(self.strides) > 1:
            raise ValueError(f"data.stride={list(self.strides)} is for training; give one of them here")
        return self.strides[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a clip."""
        sides = [self.resolution] * 2 if isinstance(self.resolution, int) else self.resolution
        if isinstance(sides, (str, bytes)) or not isinstance(sides, Sequence) or len(sides) != 2 \
                or not all(isinstance(side, int) for side in sides):
            raise ValueError(f"data.resolution must be a number or [height, width], got {self.resolution}")
        return sides[0], sides[1]


_ENTRY = ("name", "weight", "path", "split", "fold", "digits", "stride", "options")


def _is_stride(value: Any) -> bool:
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) > 0
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in (value if several else [value]))


def open_source(cfg: DataConfig, split: str | None = None) -> VideoSource:
    """Open the configured dataset or mixture; `split` replaces the configured one, as validation needs."""
    if cfg.mixture:
        parts = [open_source(cfg.part(number), split) for number in range(len(cfg.mixture))]
        return Mixture(list(zip(cfg.labels, parts)), [entry.get("weight", 1) for entry in cfg.mixture],
                       [cfg.own_strides(entry) for entry in cfg.mixture])
    options = {"split": cfg.split if split is None else split, **cfg._given}
    if "fold" in SOURCES.options(cfg.name):
        options.setdefault("fold", cfg.fold)
    path = cfg.path or os.environ.get("VIDEO_DATA") or "/data"
    return compact(SOURCES.bind({"name": cfg.name, **options})(path))


class Clips(Dataset):
    """An endless, indexed supply of clips; sample g is the same in every process.

    Every epoch visits each video once (each window, where they are strided), in an order drawn for that epoch, at a
    start drawn for that sample. Of a mixture, the samples of each dataset are the epochs of that dataset.

    Args:
        source: where the videos are.
        frames: frames of a clip.
        size: height and width.
        seed: of the run.
        stride: distance of neighbouring frames of a clip in the video; of several, each sample draws one of those at
            which the video is long enough.
        stream: name of the use, such as "train" or "validation"; streams are independent.
        on_error: "raise", or "skip" to take the epoch's next usable video in place of a damaged or short one.
        channels: 3, or 1 for grey.
        resize: how frames are brought to the size; see tools.fit.
        windows: "random", "centre" (the middle of a video), or "strided" (one each `hop` frames, and the last).
        hop: of strided windows; None sets them side by side.
        hue: the largest part of the colour circle by which a clip's hue is turned.
    """

    def __init__(self, source: VideoSource, *, frames: int, size: tuple[int, int], seed: int,
                 stride: int | Sequence[int] = 1, stream: str = "train", on_error: str = "raise", channels: int = 3,
                 resize: str = "crop", windows: str = "random", hop: int | None = None, hue: float = 0.0):
        self.source, self.frames, self.size = source, frames, tuple(size)
        self.seed, self.stream, self.on_error, self.channels = seed, stream, on_error, channels
        self.resize, self.windows, self.hop, self.hue = resize, windows, hop, hue
        strides = (stride,) if isinstance(stride, int) else tuple(stride)
        self.parts = [part if part.strides else part._replace(strides=strides) for part in parts_of(source)]
        self.skipped: dict[str, str] = {}   # name of the video -> why
        self.at: Tensor | None = None       # where to tell which video is being read
        # of strided windows: for each part, how many windows its videos have up to each
        self._ends = [self._count_windows(part) for part in self.parts] if windows == "strided" else []

    @classmethod
    def from_config(cls, source: VideoSource, cfg: DataConfig, *, seed: int, stream: str = "train") -> Clips:
        """Make clips as a DataConfig describes them."""
        return cls(source, frames=cfg.frames, size=cfg.size, seed=seed, stride=cfg.strides, stream=stream,
                   on_error=cfg.on_error, channels=cfg.channels, resize=cfg.resize, windows=cfg.windows, hop=cfg.hop,
                   hue=cfg.hue)

    def __len__(self) -> int:  # of an epoch; __getitem__ goes on beyond
        return sum(map(self._units, range(len(self.parts))))

    def __getitem__(self, g: int) -> dict[str, Any]:
        """Return sample g: frames uint8 t h w c, and index g."""
        number, k = dealt(g, [part.weight for part in self.parts], self.seed, self.stream, "mixture")
        units = self._units(number)
        epoch, place = divmod(k, units)
        for attempt in range(units):
            unit = shuffled((place + attempt) % units, units, self.seed, self.stream, "part", number, "epoch", epoch)
            video = self._video(number, unit)
            try:
                return {"frames": torch.from_numpy(self._cut(video, self.parts[number], unit, g)), "index": g}
            except ValueError as error:
                if self.on_error == "raise":
                    raise
                self.skipped[self.source.name(video)] = str(error)
        last = next(reversed(self.skipped.values()))
        raise ValueError(f"data.on_error=skip left none of the {self.parts[number].count} videos; the last was: {last}")

    def _units(self, number: int) -> int:
        """What an epoch of a part counts: its videos, or its windows."""
        return int(self._ends[number][-1]) if self._ends else self.parts[number].count

    def _video(self, number: int, unit: int) -> int:
        first = self.parts[number].first
        return first + (int(np.searchsorted(self._ends[number], unit, side="right")) if self._ends else unit)

    def _cut(self, video: int, part: Part, unit: int, g: int) -> np.ndarray:  # t h w c
        if self.at is not None:
            self.at.fill_(video)
        try:
            length = self.source.num_frames(video)
            stride = self._stride(video, length, part.strides, g)
            need = span(self.frames, stride)
            start = self._start(video, part, unit, length - need + 1, g)
            frames = read_fit(self.source, video, start, start + need, stride, self.size, self.channels, self.resize)
        except OSError as error:  # the disk or the network, not the file
            raise ValueError(f"video {self.source.name(video)} cannot be read ({error}); see to the disk, or leave such videos "
                             "out with data.on_error=skip") from error
        if self.hue:
            frames = turn_hue(frames, numpy_rng(self.seed, self.stream, "hue", g).uniform(-self.hue, self.hue))
        return frames

    def _stride(self, video: int, length: int, strides: tuple[int, ...], g: int) -> int:
        fitting = [stride for stride in strides if span(self.frames, stride) <= length]
        if not fitting:
            raise ValueError(_too_short(self.source.name(video), length, self.frames, min(strides)))
        if len(strides) == 1:
            return strides[0]
        return fitting[int(numpy_rng(self.seed, self.stream, "stride", g).integers(len(fitting)))]

    def _start(self, video: int, part: Part, unit: int, room: int, g: int) -> int:
        """Where a window begins, of as many starts as the room allows."""
        if self.windows == "centre":
            return (room - 1) // 2
        if self.windows == "random":
            return int(numpy_rng(self.seed, self.stream, "start", g).integers(room))
        ends = self._ends[self.parts.index(part)]
        before = int(ends[video - part.first - 1]) if video > part.first else 0
        return strided(unit - before, room, self._hop(part))

    def _hop(self, part: Part) -> int:
        return self.hop or span(self.frames, part.strides[0])

    def _count_windows(self, part: Part) -> np.ndarray:
        """For each video of a part, how many strided windows it and those before it have; looks at every video once."""
        if len(part.strides) > 1:
            raise ValueError(f"data.windows=strided lays windows of one length, got data.stride={list(part.strides)}; "
                             "give one stride, or data.windows=random")
        need, counts = span(self.frames, part.strides[0]), np.zeros(part.count, np.int64)
        for i in tqdm(range(part.count), unit="video", desc="counting windows", delay=2, leave=False):
            try:
                length = self.source.num_frames(part.first + i)
                if length < need:
                    raise ValueError(_too_short(self.source.name(part.first + i), length, self.frames, part.strides[0]))
                counts[i] = strided_count(length - need + 1, self._hop(part))
            except ValueError as error:
                if self.on_error == "raise":
                    raise
                self.skipped[self.source.name(part.first + i)] = str(error)
        if not counts.any():
            raise ValueError(f"data.on_error=skip left none of the {part.count} videos; the last was: "
                             f"{next(reversed(self.skipped.values()))}")
        return counts.cumsum()


def _too_short(name: str, length: int, frames: int, stride: int) -> str:
    need = (frames - 1) * stride + 1
    shape = f"{frames} frames" + (f" at data.stride={stride}" if stride > 1 else "")
    return (f"video {name} has {length} frames, but a clip of {shape} needs {need}; "
            f"lower data.frames or leave such videos out with data.on_error=skip")
