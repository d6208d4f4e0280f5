"""The real videos of the command `sample`: which windows, and their frames a few at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample_options import data_config
from tools.clips import fit, open_source, windows
from tools.manifest import Manifest
from tools.sources import VideoSource
from tools.windows import read_starts

CHUNK = 64          # frames in memory at once, as they are in the file
KEEP = 256 << 20    # bytes of frames that are kept from the first look, so that they need not be read again


@dataclass(frozen=True)
class Window:
    """One stretch of a real video."""
    name: str   # of the video
    video: int  # of the source
    start: int


@dataclass
class Truth:
    """The real windows whose frames are given, read when they are asked for; none where nothing is given."""
    length: int                                  # frames of a window
    stride: int = 1                              # between neighbouring frames of a window in the video
    source: VideoSource | None = None
    bring: Callable[[str, np.ndarray], np.ndarray] | None = None  # (name, frames) -> the size that is made
    windows: tuple[Window, ...] = ()
    kept: dict[Window, list[np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def notes(self) -> list[str]:
        """What was left out."""
        return list(self.source.notes) if self.source else []

    @property
    def manifest(self) -> Manifest:
        """The windows by name, so that another model can be shown the same."""
        return Manifest.of(self.source, [(w.video, w.start) for w in self.windows], self.length, stride=self.stride)

    @property
    def files(self) -> set[Path]:
        """The real files themselves."""
        return {Path(path).resolve() for path in getattr(self.source, "paths", ())}

    def pieces(self, window: Window) -> Iterator[np.ndarray]:
        """Frames of a window, uint8 t h w c, in their order."""
        if window in self.kept:
            yield from self.kept[window]
            return
        for first in range(0, self.length, CHUNK):
            last = min(first + CHUNK, self.length) - 1
            start = window.start + first * self.stride
            yield self.bring(window.name, self.source.read(window.video, start, window.start + last * self.stride + 1,
                                                           self.stride))

    def look(self, window: Window) -> tuple[int, int]:
        """Read a window from end to end, and keep it if there is room; return the size of its frames."""
        frames, room = [], KEEP - sum(piece.nbytes for pieces in self.kept.values() for piece in pieces)
        for piece in self.pieces(window):
            shape, room = piece.shape[1:3], room - piece.nbytes
            frames = [*frames, np.ascontiguousarray(piece)] if room >= 0 else []
        if room >= 0:
            self.kept[window] = frames
        return shape

    def read(self, index: int, wanted: Tensor | None = None) -> np.ndarray:
        """Frames of a window, uint8 t h w c: all, or those that a mask (bool t) wants."""
        pick = np.ones(self.length, bool) if wanted is None else wanted[:self.length].numpy()
        pieces = self.pieces(self.windows[index])
        return np.concatenate([piece[pick[CHUNK * i:CHUNK * i + len(piece)]] for i, piece in enumerate(pieces)])


def open_truth(task: str, mask: Tensor, pipeline: VideoDiffusion | None, *, data: str | None, data_path: str | None,
               input: str | None, resize: bool, starts: str | None, num_videos: int | None, seed: int,
               overrides: list[str], manifest: str | None = None) -> Truth:
    """Choose the windows and look once at each: what is damaged or of another size is told before anything is made.

    Args:
        mask: bool t, the frames that are given.
        overrides: data.* settings.
        manifest: file of the windows to take, in place of `starts` or of a drawing.
    """
    if manifest and starts:
        raise ValueError(f"--windows {manifest} and --starts {starts} both choose the windows; give one of them")
    if not data and not input:
        if bool(mask.any()):
            raise ValueError(f"--task {task} needs real frames: --data NAME --data_path DIR, or --input PATH")
        if overrides:
            raise ValueError(f"{overrides[0]} is a setting of real videos, of which there are none; name them with --data NAME "
                             "or --input PATH, or leave it out")
        if manifest:
            raise ValueError(f"--windows {manifest} is of real videos, of which there are none; name them with --data NAME "
                             "or --input PATH, or leave it out")
        return Truth(len(mask))
    if data and input:
        raise ValueError("--data and --input are two ways to name the videos; give one of them")
    cfg, sized = data_config(data, data_path, input, overrides)
    given = Manifest.read(manifest) if manifest else None
    if given and given.stride != cfg.one_stride:
        if any(item.startswith("data.stride=") for item in overrides):
            raise ValueError(f"--windows {manifest} has stride {given.stride}, got data.stride={cfg.stride}; leave that out")
        cfg = replace(cfg, stride=given.stride)
    source = open_source(cfg)
    begins = read_starts(starts) if starts else ([0] if input else None)
    length = len(mask)
    if input and bool(mask.any()):
        length = int(mask.nonzero().max()) + 1  # what follows the given frames need not exist
        if all(_reaches(source, i, (len(mask) - 1) * cfg.one_stride, cfg.on_error) for i in range(len(source))):
            length = len(mask)
    if given:
        chosen = given.find(source, length)
    else:
        chosen = windows(source, length, begins, num_videos, seed, stride=cfg.one_stride, on_error=cfg.on_error)
    if num_videos:
        chosen = chosen[:num_videos]
    size = cfg.size if sized else None
    if pipeline and size not in (None, pipeline.size):
        raise ValueError(f"data.resolution={cfg.resolution} is not the model's, which makes {pipeline.size[0]}x"
                         f"{pipeline.size[1]} (height x width); leave it out")
    channels = pipeline.model.codec.config.in_channels if pipeline else cfg.channels
    fitted = Fitted(pipeline.size if pipeline else size, channels, bool(data) or sized or resize, cfg.resize)
    truth = Truth(length, cfg.one_stride, source, fitted)
    truth.windows = tuple(_whole(truth, chosen, cfg.on_error))
    return truth


def _reaches(source: VideoSource, video: int, frame: int, on_error: str) -> bool:
    """Whether a video has a frame; a damaged one, if such are skipped, speaks against nothing."""
    try:
        return source.num_frames(video) > frame
    except ValueError:
        if on_error == "raise":
            raise
        return True


def _whole(truth: Truth, chosen: list[tuple[int, int]], on_error: str) -> Iterator[Window]:
    """The windows that can be read, of one size; with on_error="skip" the others are noted at the source."""
    first, error, source = None, None, truth.source
    for video, start in chosen:
        window = Window(source.name(video), video, start)
        try:
            shape = truth.look(window)
        except BadSize:
            raise
        except ValueError as damage:
            if on_error == "raise":
                raise
            error = damage
            source.notes.append(f"left out is {window.name} from frame {start} on: {damage}")
            continue
        first = first or (window.name, shape)
        if shape != first[1]:  # a baseline takes videos as they are; they must be alike all the same
            sizes = ", ".join(f"{name} is {height}x{width}" for name, (height, width) in (first, (window.name, shape)))
            raise ValueError(f"the videos differ in size (height x width): {sizes}; bring them to one with "
                             f"data.resolution={min(first[1])}")
        yield window
    if error and not first:
        raise ValueError(f"data.on_error=skip left none of the {len(chosen)} windows; the last: {error}")


class BadSize(ValueError):
    """A video that is whole, but not of the model's size."""


@dataclass(frozen=True)
class Fitted:
    """Brings frames to a size, or refuses those that have another."""
    size: tuple[int, int] | None
    channels: int
    resize: bool
    mode: str = "crop"  # of resizing; see tools.fit

    def __call__(self, name: str, frames: np.ndarray) -> np.ndarray:
        if self.size and frames.shape[1:3] != self.size and not self.resize:
            raise BadSize(f"video {name} is {frames.shape[1]}x{frames.shape[2]}, the model makes "
                          f"{self.size[0]}x{self.size[1]} (height x width); add --resize to scale and crop it")
        return fit(frames, self.size or frames.shape[1:3], self.channels, self.mode)


def known_frames_of(truth: Truth, videos: list[int], mask: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The frames that are given, alone: uint8 b k h w c of `shape` h w c; nothing else is looked at, so nothing can leak."""
    if not bool(mask.any()):
        return torch.zeros(len(videos), 0, *shape, dtype=torch.uint8)
    return torch.stack([torch.from_numpy(truth.read(video, mask)) for video in videos])
