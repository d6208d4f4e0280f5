"""Work divided among processes that end with the one that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

_shared: Any = None  # of a worker process


def map_shared(work: Callable[[Any, Any], Any], shared: Any, jobs: Iterable, workers: int) -> Iterator:
    """Yield work(shared, job) of every job, as they come.

    Args:
        work: a function of a module; an error that it raises is raised here, and what has not begun is left.
        shared: is copied into each process once.
        workers: processes; 0 does it here.

    Raises:
        ValueError: a process was killed.
    """
    jobs = list(jobs)
    if workers == 0 or not jobs:
        for job in jobs:
            yield work(shared, job)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")  # fork copies held locks
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([work.__module__])  # imported once, not once a process
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _enter, (shared,))
    try:
        waiting = {pool.submit(_call, work, job) for job in jobs}
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    except BrokenProcessPool:
        raise ValueError("a process was killed, most often since the memory was full; the same command with fewer --workers "
                         "goes on where it stopped") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _enter(shared: Any) -> None:
    global _shared
    _shared = shared
    import torch
    torch.set_num_threads(1)  # there are as many of us as cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the main process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop us, and the next one would find us at work on its files."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _call(work: Callable[[Any, Any], Any], job: Any) -> Any:
    return work(_shared, job)
