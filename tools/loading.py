"""From clips to the batches of each step, with or without loading processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

if TYPE_CHECKING:
    from tools.clips import Clips

MicroBatch = dict[str, Tensor]  # frames: uint8 b t h w c; index: int64 b, the global sample indices
_ending = False                 # this process ends, and its loading processes with it


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

    Raises:
        ValueError: a video cannot be used.
        RuntimeError: a loading process died, which tells the videos that were being read.
    """
    rounds = check_batch(batch_size, world, micro_batch)
    keys = _Keys(batch_size, start_step, stop_step, rank, world, rounds)
    return _steps(clips, keys, rounds, workers, pin)


def _steps(clips, keys, rounds, workers, pin) -> Iterator[list[MicroBatch]]:
    batches, others = _Batches(clips, workers), set(multiprocessing.active_children())
    loaded = iter(DataLoader(batches, sampler=keys, batch_size=None, num_workers=workers, pin_memory=pin,
                             worker_init_fn=_quiet if workers else None,
                             generator=torch.Generator()))  # its own: the loader must not draw from the run's
    processes = sorted({*multiprocessing.active_children()} - others, key=lambda process: process.pid)
    gathered: list[MicroBatch] = []
    try:
        for batch in loaded:
            if isinstance(batch, ValueError):
                raise batch
            clips.skipped.update(batch.pop("skipped"))
            gathered.append(batch)
            if len(gathered) == rounds:
                yield gathered
                gathered = []
    except RuntimeError as error:
        if died := batches.died(processes):
            raise RuntimeError(died) from error
        raise
    except GeneratorExit:  # torch tells of a process that died wherever we are, which is most often outside of here
        if died := batches.died(processes):
            print(f"error: {died}", file=sys.stderr)
        raise


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

    def __init__(self, clips: Clips, workers: int):
        self.clips = clips
        self._at = torch.full((max(workers, 1),), -1).share_memory_()  # the video that each process reads
        self._told = 0  # skipped videos that this process has told of

    def died(self, processes: list) -> str | None:
        """Say what loading processes were at that have ended by themselves: the decoder crashed, or memory was short."""
        ended = [(process.exitcode, video) for process, video in zip(processes, self._at.tolist())
                 if process.exitcode and not _ending]
        names = dict.fromkeys(f"{self.clips.source.name(video) if video >= 0 else 'no video yet'} (exit status {code})"
                              for code, video in ended)
        return f"a loading process died while it read {', '.join(names)}; take the video out of the dataset if it is to " \
               "blame, else give fewer data.workers, which need less memory" if ended else None

    def __getitem__(self, keys: list[int]) -> dict[str, Any] | ValueError:
        worker = get_worker_info()
        self.clips.at = self._at[worker.id if worker else 0]
        try:
            samples = [self.clips[g] for g in keys]
        except ValueError as error:
            return ValueError(str(error))
        told, self._told = self._told, len(self.clips.skipped)
        return {"frames": torch.stack([s["frames"] for s in samples]),
                "index": torch.tensor([s["index"] for s in samples]),
                "skipped": dict(list(self.clips.skipped.items())[told:]) if self._told > told else {}}


@atexit.register
def _end_workers() -> None:
    """A crash may leave workers behind. They do not hear the SIGTERM with which Python would end them, then wait."""
    global _ending
    _ending = True
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take their end for another failure
    for worker in workers:
        worker.kill()


def _quiet(worker: int) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # they are for the main process, which saves and stops us
        signal.signal(signum, signal.SIG_IGN)
