"""What a training run reads: batches by step, and fixed validation clips that no step sees."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tools import dist
from tools.clips import Clips, DataConfig, check_batch, fit, loader, open_source, read_windows, windows
from tools.loop import LoopConfig, MicroBatches
from tools.mixture import Mixture, Part, parts_of
from tools.order import dealt
from tools.sources import VideoSource
from tools.windows import span

SHOWN = 50         # skipped videos that are named one by one; after them, a line for each further so many
SMALL = 50_000      # videos that are compared file by file with those of the other side; of more, folder by folder


class Feed(NamedTuple):
    batches: Callable[[int, int], Iterator[MicroBatches]]  # (start_step, stop_step) -> this process's share
    validation: Tensor                                     # uint8 b t h w c
    notes: list[str]                                       # what a run should say of its data


def open_feed(data: DataConfig, loop: LoopConfig, *, frames: int, seed: int, validation_clips: int,
              shortest: int | None = None, log: Callable[[str], None] | None = None) -> Feed:
    """Open a dataset for training.

    Args:
        frames: of a training window; may span several clips.
        shortest: frames of the windows where no video holds `frames`, as in a set of single images.
        validation_clips: windows drawn from the test side, or, where there is none, from the training videos.
        log: of the run, which is told of skipped videos as they are met; None is stderr, as for all but the first process.
    """
    check_batch(loop.batch_size, dist.world(), loop.micro_batch)  # before a source is opened
    with _first_process_first():
        source = open_source(data)
    if shortest and shortest < frames and not _holds(source, span(frames, min(data.strides)), data.on_error):
        source.notes.append(f"no video has {frames} frames, so windows are of {shortest}: nothing is ever known around a clip")
        frames = shortest
    clips = Clips.from_config(source, replace(data, frames=frames), seed=seed)
    batches = partial(_batches, clips, data, loop, log if log and dist.is_main() else _to_stderr)
    validation, notes = _validation(data, source, frames, seed, validation_clips)
    return Feed(batches, validation, [f"{data.name} {data.split}: {len(source)} videos", *source.notes, *notes])


@contextlib.contextmanager
def _first_process_first() -> Iterator[None]:
    """What the first process lists and keeps on disk, the others then find there."""
    if not dist.is_main():
        dist.barrier()
    try:
        yield
    finally:
        if dist.is_main():
            dist.barrier()


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


def _batches(clips: Clips, data: DataConfig, loop: LoopConfig, tell: Callable[[str], None], start: int,
             stop: int) -> Iterator[MicroBatches]:
    told = 0
    for step in loader(clips, batch_size=loop.batch_size, start_step=start, stop_step=stop, rank=dist.rank(),
                       world=dist.world(), micro_batch=loop.micro_batch, workers=data.workers,
                       pin=dist.device().type == "cuda"):
        told = _tell_skipped(clips, told, tell)
        yield step


def _tell_skipped(clips: Clips, told: int, tell: Callable[[str], None]) -> int:
    """Name the videos that were skipped since so many had been told; return how many there are now."""
    now, videos = len(clips.skipped), len(clips.source)
    for number, (name, why) in enumerate(list(clips.skipped.items())[told:] if now > told else (), told + 1):
        if number <= SHOWN or number % SHOWN == 0:
            tell(f"data.on_error=skip leaves out {name} ({number} of {videos} videos so far): {why}")
    return now


def _to_stderr(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _validation(data: DataConfig, source: VideoSource, frames: int, seed: int, count: int) -> tuple[Tensor, list[str]]:
    held_out, side, notes = source, f"training videos (data.split={data.split})", []
    if data.split == "train":
        try:
            held_out, side = _test_side(data, notes), "test videos"
        except ValueError as error:  # no other side: the note says which videos were taken instead, and why
            side = f"training videos (the test side cannot be opened: {error})"
        else:
            notes += [*_shared(source, held_out), *held_out.notes]
    clips = []
    for part, own, stride, share in _shares(held_out, data, seed, count):
        before = len(own.notes)
        chosen = windows(own, frames, count=share, seed=seed, stride=stride, on_error=data.on_error)
        clips += [fit(pixels, data.size, data.channels, data.resize) for _, _, pixels in
                  read_windows(own, chosen, frames, stride=stride, on_error=data.on_error)]
        if own is not source:  # the run says those of its source itself
            notes += [f"{part.name}: {note}" if part.name else note for note in own.notes[before:]]
    return torch.from_numpy(np.stack(clips)), [f"validation: {len(clips)} windows of {frames} frames from {side}", *notes]


def _test_side(data: DataConfig, notes: list[str]) -> VideoSource:
    """The test side; of a mixture that of every dataset that has one."""
    if not data.mixture:
        return open_source(data, "test")
    there, error = [], None
    for number, label in enumerate(data.labels):
        part = data.part(number)
        try:
            if part.split != "train":
                raise ValueError(f"it trains on data.split={part.split}")
            there.append((label, open_source(part, "test"), data.mixture[number]))
        except ValueError as missing:
            error = missing
            notes.append(f"validation has no window of {label}: {missing}")
    if error and not there:
        raise error
    return Mixture([(label, source) for label, source, _ in there], [entry.get("weight", 1) for _, _, entry in there],
                   [data.own_strides(entry) for _, _, entry in there])


def _shares(source: VideoSource, data: DataConfig, seed: int, count: int) -> list[tuple[Part, VideoSource, int, int]]:
    """How many validation windows each dataset and stride has: (part, its source, stride, windows)."""
    parts = parts_of(source)
    sources = getattr(source, "sources", [source])
    drawn = [dealt(g, [part.weight for part in parts], seed, "validation")[0] for g in range(count)]
    shares = []
    for number, (part, own) in enumerate(zip(parts, sources)):
        strides, mine = part.strides or data.strides, drawn.count(number)
        for place, stride in enumerate(strides):
            share = len(range(place, mine, len(strides)))
            shares += [(part, own, stride, share)] if share else []
    return shares


def _shared(train: VideoSource, test: VideoSource) -> list[str]:
    """A note if videos of the test side are trained on too: the measure then tells nothing of new videos."""
    links = len(train) + len(test) <= SMALL
    same = len(_identities(train, links) & _identities(test, links))
    return [f"{same} of the {len(test)} test videos are training videos too; validation does not tell how new "
            "videos would do"] if same else []


def _identities(source: VideoSource, links: bool) -> set[str]:
    """Files, where a source has them: names are unique only within a side. A link of a single file is told to be one
    only if asked for, since each costs a question to the disk."""
    paths = getattr(source, "paths", None)
    if not paths:
        return {source.name(i) for i in range(len(source))}
    folder = lru_cache(os.path.realpath)
    return {os.path.realpath(path) if links else os.path.join(folder(os.path.dirname(path)), os.path.basename(path))
            for path in map(os.fspath, paths)}
