"""What a training run reads: batches by step, and fixed validation clips that no step sees."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tools import dist
from tools.clips import Clips, DataConfig, check_batch, fit, loader, open_source, windows
from tools.loop import LoopConfig, MicroBatches
from tools.sources import VideoSource


class Feed(NamedTuple):
    batches: Callable[[int, int], Iterator[MicroBatches]]  # (start_step, stop_step) -> this process's share
    validation: Tensor                                     # uint8 b t h w c
    notes: list[str]                                       # what a run should say of its data


def open_feed(data: DataConfig, loop: LoopConfig, *, frames: int, seed: int, validation_clips: int) -> Feed:
    """Open a dataset for training.

    Args:
        frames: of a training window; may span several clips.
        validation_clips: windows drawn from the test side, or, where there is none, from the training videos.
    """
    check_batch(loop.batch_size, dist.world(), loop.micro_batch)  # before a source is opened
    source = open_source(data)
    clips = Clips.from_config(source, replace(data, frames=frames), seed=seed)
    batches = partial(_batches, clips, data, loop)
    validation, note = _validation(data, source, frames, seed, validation_clips)
    return Feed(batches, validation, [f"{data.name} {data.split}: {len(source)} videos", *source.notes, *note])


def _batches(clips: Clips, data: DataConfig, loop: LoopConfig, start: int, stop: int) -> Iterator[MicroBatches]:
    return loader(clips, batch_size=loop.batch_size, start_step=start, stop_step=stop, rank=dist.rank(), world=dist.world(),
                  micro_batch=loop.micro_batch, workers=data.workers, pin=dist.device().type == "cuda")


def _validation(data: DataConfig, source: VideoSource, frames: int, seed: int, count: int) -> tuple[Tensor, list[str]]:
    held_out, side = source, "training videos (the dataset has no other side)"
    if data.split == "train":
        with contextlib.suppress(ValueError):  # the note then says which videos were taken instead
            held_out, side = open_source(data, "test"), "test videos"
    chosen = windows(held_out, frames, count=count, seed=seed, stride=data.stride, on_error=data.on_error)
    need = (frames - 1) * data.stride + 1
    clips = [fit(held_out.read(video, start, start + need, data.stride), data.size, data.channels) for video, start in chosen]
    notes = [] if held_out is source else held_out.notes
    return torch.from_numpy(np.stack(clips)), [f"validation: {len(clips)} windows of {frames} frames from {side}", *notes]
