"""What a training run reads: batches by step, and fixed validation clips that no step sees."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tools import dist
from tools.clips import Clips, DataConfig, check_batch, fit, loader, open_source, read_windows, windows
from tools.loop import LoopConfig, MicroBatches
from tools.sources import VideoSource


class Feed(NamedTuple):
    batches: Callable[[int, int], Iterator[MicroBatches]]  # (start_step, stop_step) -> this process's share
    validation: Tensor                                     # uint8 b t h w c
    notes: list[str]                                       # what a run should say of its data


def open_feed(data: DataConfig, loop: LoopConfig, *, frames: int, seed: int, validation_clips: int,
              shortest: int | None = None) -> Feed:
    """Open a dataset for training.

    Args:
        frames: of a training window; may span several clips.
        shortest: frames of the windows where no video holds `frames`, as in a set of single images.
        validation_clips: windows drawn from the test side, or, where there is none, from the training videos.
    """
    check_batch(loop.batch_size, dist.world(), loop.micro_batch)  # before a source is opened
    source = open_source(data)
    if shortest and shortest < frames and not _holds(source, (frames - 1) * data.stride + 1, data.on_error):
        source.notes.append(f"no video has {frames} frames, so windows are of {shortest}: nothing is ever known around a clip")
        frames = shortest
    clips = Clips.from_config(source, replace(data, frames=frames), seed=seed)
    batches = partial(_batches, clips, data, loop)
    validation, notes = _validation(data, source, frames, seed, validation_clips)
    return Feed(batches, validation, [f"{data.name} {data.split}: {len(source)} videos", *source.notes, *notes])


def _holds(source: VideoSource, frames: int, on_error: str) -> bool:
    """Whether any video is as long as that."""
    for i in range(len(source)):
        try:
            if source.num_frames(i) >= frames:
                return True
        except ValueError:
            if on_error == "raise":
                raise
    return False


def _batches(clips: Clips, data: DataConfig, loop: LoopConfig, start: int, stop: int) -> Iterator[MicroBatches]:
    return loader(clips, batch_size=loop.batch_size, start_step=start, stop_step=stop, rank=dist.rank(), world=dist.world(),
                  micro_batch=loop.micro_batch, workers=data.workers, pin=dist.device().type == "cuda")


def _validation(data: DataConfig, source: VideoSource, frames: int, seed: int, count: int) -> tuple[Tensor, list[str]]:
    held_out, side, notes = source, f"training videos (data.split={data.split})", []
    if data.split == "train":
        try:
            held_out, side = open_source(data, "test"), "test videos"
        except ValueError as error:  # no other side: the note says which videos were taken instead, and why
            side = f"training videos (the test side cannot be opened: {error})"
        else:
            notes += _shared(source, held_out)
    chosen = windows(held_out, frames, count=count, seed=seed, stride=data.stride, on_error=data.on_error)
    clips = [fit(pixels, data.size, data.channels) for _, _, pixels in
             read_windows(held_out, chosen, frames, stride=data.stride, on_error=data.on_error)]
    notes += held_out.notes if held_out is not source else []  # the run says those of its source itself
    return torch.from_numpy(np.stack(clips)), [f"validation: {len(clips)} windows of {frames} frames from {side}", *notes]


def _shared(train: VideoSource, test: VideoSource) -> list[str]:
    """A note if videos of the test side are trained on too: the measure then tells nothing of new videos."""
    same = len(_identities(train) & _identities(test))
    return [f"{same} of the {len(test)} test videos are training videos too; validation does not tell how new "
            "videos would do"] if same else []


def _identities(source: VideoSource) -> set[str]:
    """Files, where a source has them: names are unique only within a side."""
    paths = getattr(source, "paths", None)
    return {os.path.realpath(path) for path in paths} if paths else {source.name(i) for i in range(len(source))}
