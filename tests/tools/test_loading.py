"""Batches: which samples a process has in a step, whatever loads them, and what becomes of processes that die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from numbered import Counted, clips, run, same
from torch.utils.data import get_worker_info

from tools.loading import _Batches, check_batch, loader
from tools.order import shuffled


@pytest.mark.parametrize("options", [
    {"workers": 2}, {"micro_batch": 2}, {"micro_batch": 1, "workers": 1}, {"world": 2},
    {"world": 2, "micro_batch": 1}, {"world": 4}, {"workers": 2, "micro_batch": 2, "world": 2},
])
def test_content_does_not_depend_on_how_it_is_loaded(options):
    source = clips(Counted([30, 40, 50]))
    assert same(run(source)[0], run(source, **options)[0])


def test_resuming_reads_nothing_before():
    source = clips(Counted([30, 40, 50]))
    full, _ = run(source, stop=5)
    late, _ = run(source, stop=5, start_step=3)
    assert sorted(late) == list(range(12, 20)) and all(torch.equal(full[g], late[g]) for g in late)
    assert run(source, stop=3, start_step=3)[0] == {}


def test_ranks_and_micro_batches_share_a_step():
    source = clips(Counted([30]))
    steps = list(loader(source, batch_size=8, start_step=2, stop_step=3, rank=1, world=2, micro_batch=2))
    assert [m["index"].tolist() for m in steps[0]] == [[17, 19], [21, 23]]
    assert run(source, stop=2, batch_size=8, micro_batch=2)[1] == [[2, 2, 2, 2]] * 2


@pytest.mark.parametrize("batch, world, micro", [(6, 4, None), (8, 1, 3), (8, 2, 8), (2, 4, None), (0, 1, None)])
def test_uneven_batches_are_refused(batch, world, micro):
    with pytest.raises(ValueError, match=rf"--batch_size {batch} cannot be split evenly over {world} processes"):
        check_batch(batch, world, micro)


def test_rounds_of_even_batches():
    assert [check_batch(*a) for a in ((8, 1, None), (8, 2, None), (8, 2, 1), (64, 8, 4))] == [1, 1, 4, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_run_its_randomness(workers):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    run(clips(Counted([30])), workers=workers)
    assert torch.equal(torch.rand(3), wanted)


CRASH = """
from tools.clips import Clips, loader
from tools.sources import SOURCES
source = SOURCES.bind({"name": "SHAPES", "size": 16, "length": 8, "count": 4})("")
steps = loader(Clips(source, frames=4, size=(16, 16), seed=0), batch_size=2, start_step=0, stop_step=99, workers=1)
next(steps)
raise RuntimeError("crash")
"""


def test_a_crash_does_not_wait_for_the_workers():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CRASH], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: crash\n"), done.stderr


class Deadly(Counted):
    """Reading its second video ends the last loading process, as a decoder that crashes does."""

    def read(self, i, *span):
        worker = get_worker_info()
        if i == 1 and worker.id == worker.num_workers - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i, *span)


def test_a_loading_process_that_dies_names_the_video():
    with pytest.raises(RuntimeError, match=r"died while it read video1 \(exit status -9\); take the video out"):
        run(clips(Deadly([9, 9, 9])), workers=2)


def test_a_death_that_is_told_elsewhere_names_the_video_too(capfd):
    data = clips(Deadly([9] * 3))
    first = next(g for g in range(20) if shuffled_to(data, g) == 1)
    steps = loader(data, batch_size=1, start_step=first - 1 if first else 3, stop_step=99, workers=1)
    with pytest.raises(RuntimeError):  # torch raises it wherever the process is: here in the middle of a training step
        for _ in steps:
            time.sleep(60)
    steps.close()
    assert "video1 (exit status -9)" in capfd.readouterr().err


def shuffled_to(data, g):
    """The video of sample g."""
    return shuffled(g % 3, 3, data.seed, data.stream, "part", 0, "epoch", g // 3)


def test_processes_are_sent_bytes_and_only_news_of_what_is_skipped():
    batches = _Batches(clips(Counted([9, 3, 9, 2]), on_error="skip"), workers=0)
    sent = [batches[[g]] for g in range(8)]
    assert all(batch["frames"].dtype == torch.uint8 for batch in sent)
    assert sorted(name for batch in sent for name in batch["skipped"]) == ["video1", "video3"]
