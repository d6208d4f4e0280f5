import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
from torch import nn

from tools import checkpoint, dist
from tools.log import Run, read_metrics
from tools.loop import LoopConfig, train

HERE = Path(__file__).parent
STEPS = 14
CFG = LoopConfig(steps=STEPS, batch_size=8, save_every=4, log_every=3, validate_every=5)

WORKER = """
import json, os, signal, sys
import torch
import toy, test_dist
from tools import dist

folder = sys.argv[1]
device = dist.start()
rank = dist.rank()
facts = {"rank": rank, "world": dist.world(), "main": dist.is_main(), "device": str(device),
         "sum": dist.all_reduce_sum(rank + 0.5),
         "tensor": dist.all_reduce_sum(torch.tensor([rank, 1])).tolist(),
         "object": dist.broadcast_object({"from": rank})}
test_dist.run(folder + "/whole")

stage = toy.ToyStage(test_dist.STEPS, dropout=0)
make = stage.train_step
def train_step(step, *args):
    if step == 6 and rank == 1:  # the process that does not write receives the signal
        os.kill(os.getpid(), signal.SIGTERM)
    return make(step, *args)
stage.train_step = train_step
try:
    test_dist.run(folder + "/stopped", stage)
except SystemExit as stop:
    facts["code"] = stop.code
facts["resumed"] = test_dist.run(folder + "/stopped").trained
json.dump(facts, open(f"{folder}/facts{rank}.json", "w"))
dist.stop()
"""


def run(folder, stage=None):
    stage = stage or toy.ToyStage(STEPS, dropout=0)
    handle = Run(folder) if dist.is_main() else Run.null()
    try:
        train(stage, toy.batches, handle, CFG, seed=1)
    finally:
        handle.close()
    return stage


def weights(folder):
    return checkpoint.load(folder / "model_last.pth")["state"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    (folder / "worker.py").write_text(WORKER)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
           "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(folder / "worker.py"), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_collectives(pair):
    facts = [json.loads((pair / f"facts{r}.json").read_text()) for r in (0, 1)]
    for rank, fact in enumerate(facts):
        assert (fact["rank"], fact["world"], fact["main"], fact["device"]) == (rank, 2, rank == 0, "cpu")
        assert (fact["sum"], fact["tensor"], fact["object"]) == (2.0, [1, 2], {"from": 0})


def test_two_processes_equal_one(pair, tmp_path):
    run(tmp_path / "one")
    torch.testing.assert_close(weights(pair / "whole"), weights(tmp_path / "one"), rtol=1e-5, atol=1e-5)
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path / "one", pair / "whole"))
    one, two = ({(r["step"], r["name"]): r["value"] for r in lines if r["name"] not in toy.TIMING}
                for lines in (one, two))
    assert two == pytest.approx(one, rel=1e-4)


def test_a_signal_to_one_process_stops_both_and_resume_is_exact(pair):
    facts = [json.loads((pair / f"facts{r}.json").read_text()) for r in (0, 1)]
    assert all(fact["code"] == 143 and fact["resumed"] == list(range(7, STEPS)) for fact in facts)
    assert checkpoint.state_hash(weights(pair / "stopped")) == checkpoint.state_hash(weights(pair / "whole"))


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun --nproc_per_node=1
    assert dist.start() == dist.device()
    assert not torch.distributed.is_initialized()
    assert (dist.rank(), dist.world(), dist.is_main()) == (0, 1, True)
    assert dist.all_reduce_sum(2.5) == 2.5 and dist.broadcast_object("x") == "x"
    net = nn.Linear(1, 1)
    assert dist.wrap(net) is net
    with dist.sync(net, False):
        net(torch.zeros(1, 1)).sum().backward()
    dist.barrier()
    dist.stop()


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match=r'dist.strategy must be ddp, got "dpp"'):
        dist.DistConfig(strategy="dpp")
