import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
from torch import nn

from tools import checkpoint, dist, fsdp, replicas
from tools.log import Run, read_metrics
from tools.loop import LoopConfig, train

HERE = Path(__file__).parent
STEPS = 14
CFG = LoopConfig(steps=STEPS, batch_size=8, save_every=4, log_every=3, validate_every=5)

WORKER = """
import json, sys
import test_dist
from tools import dist

folder = sys.argv[1]
facts = test_dist.facts_of_a_process(folder)
json.dump(facts, open(f"{folder}/facts{dist.rank()}.json", "w"))
dist.stop()
"""


def run(folder, stage=None, strategy="ddp"):
    stage = stage or toy.ToyStage(STEPS, dropout=0, strategy=strategy)
    handle = Run(folder) if dist.is_main() else Run.null()
    try:
        train(stage, toy.batches, handle, CFG, seed=1)
    finally:
        handle.close()
    return stage


def after(stage, step, call):
    """Let a stage make a call at the end of one of its updates."""
    make = stage.train_step

    def train_step(now, *args):
        values = make(now, *args)
        if now == step:
            call()
        return values
    stage.train_step = train_step
    return stage


def stop_and_go_on(folder, strategy, then):
    """Train until the process that does not write is told to stop, after seven updates; then to the end."""
    stage = toy.ToyStage(STEPS, dropout=0, strategy=strategy)
    stop = (lambda: os.kill(os.getpid(), signal.SIGTERM)) if dist.rank() == 1 else lambda: None
    try:
        run(folder, after(stage, 6, stop))
    except SystemExit as error:
        return {"code": error.code, "resumed": run(folder, strategy=then).trained}


def drift(folder):
    """What a training says in which one bit of one weight of one process falls over."""
    stage = toy.ToyStage(STEPS, dropout=0)

    def fall():
        if dist.rank() == 1:
            stage.net[3].bias.data.view(torch.int32)[0] ^= 1
    try:
        run(folder, after(stage, 5, fall))
    except replicas.ReplicasDiffer as error:
        return str(error)


def sums(strategy, micro_batches):
    """How many sums over the processes an update makes."""
    stage = toy.ToyStage(STEPS, dropout=0, strategy=strategy)
    batch = [{"x": torch.ones(1, 4)}] * micro_batches
    for step in range(2):  # what is only done once
        stage.train_step(step, batch, 8)
    with torch.profiler.profile() as profile:
        stage.train_step(2, batch, 8)
    return sum(event.name in ("gloo:all_reduce", "gloo:reduce_scatter") for event in profile.events())


def facts_of_a_process(folder):
    device, rank = dist.start(), dist.rank()
    facts = {"rank": rank, "world": dist.world(), "main": dist.is_main(), "device": str(device),
             "sum": dist.all_reduce_sum(rank + 0.5),
             "tensor": dist.all_reduce_sum(torch.tensor([rank, 1])).tolist(),
             "object": dist.broadcast_object({"from": rank}), "objects": dist.all_gather_object(10 * rank)}
    run(f"{folder}/ddp")
    sharded = run(f"{folder}/fsdp", strategy="fsdp")
    facts["held"] = {name: [fsdp.local(value).numel() for value in values] for name, values in {
        "weights": sharded.net.parameters(), "averages": sharded.ema.copies[0.9],
        "moments": [sharded.optimizer.state[p]["exp_avg"] for p in sharded.net.parameters()]}.items()}
    facts |= {f"{a} {b}": stop_and_go_on(f"{folder}/{a}_{b}", a, b) for a in ("ddp", "fsdp") for b in ("ddp", "fsdp")}
    facts["drift"] = drift(f"{folder}/drift")
    facts["sums"] = {strategy: [sums(strategy, n) for n in (1, 4)] for strategy in ("ddp", "fsdp")}
    return facts


def weights(folder):
    return checkpoint.load(folder / "model_last.pth")["state"]


def metrics(folder):
    return {(r["step"], r["name"]): r["value"] for r in read_metrics(folder / "metrics.jsonl") if r["name"] not in toy.TIMING}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of what two processes made."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "worker.py").write_text(WORKER)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
           "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(folder / "worker.py"), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def facts(pair):
    """What each of them has seen."""
    return [json.loads((pair / f"facts{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of what one process makes."""
    folder = tmp_path_factory.mktemp("one")
    run(folder)
    return folder


def test_collectives(facts):
    for rank, fact in enumerate(facts):
        assert (fact["rank"], fact["world"], fact["main"], fact["device"]) == (rank, 2, rank == 0, "cpu")
        assert (fact["sum"], fact["tensor"], fact["object"], fact["objects"]) == (2.0, [1, 2], {"from": 0}, [0, 10])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(pair, one, strategy):
    torch.testing.assert_close(weights(pair / strategy), weights(one), rtol=1e-5, atol=1e-5)
    assert metrics(pair / strategy) == pytest.approx(metrics(one), rel=1e-4)


def test_shards_are_what_a_process_holds(facts):
    whole = [p.numel() for p in toy.ToyStage(STEPS).net.parameters()]
    for what in ("weights", "averages", "moments"):
        held = [fact["held"][what] for fact in facts]
        assert [a + b for a, b in zip(*held)] == whole and held[0][0] == held[1][0] == whole[0] // 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_one_process_stops_both_and_resume_is_exact(pair, facts, strategy):
    assert all(fact[f"{strategy} {strategy}"] == {"code": 143, "resumed": list(range(7, STEPS))} for fact in facts)
    resumed = weights(pair / f"{strategy}_{strategy}")
    assert checkpoint.state_hash(resumed) == checkpoint.state_hash(weights(pair / strategy))


@pytest.mark.parametrize("change", ["ddp_fsdp", "fsdp_ddp"])
def test_a_training_goes_on_by_another_strategy(pair, facts, one, change):
    assert facts[0][change.replace("_", " ")]["resumed"] == list(range(7, STEPS))
    torch.testing.assert_close(weights(pair / change), weights(one), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_checkpoint_of_two_processes_goes_on_in_one(pair, one, tmp_path, strategy):
    last = checkpoint.steps(pair / strategy / "checkpoints")[0][1]
    assert last.name == "step-00000012.pt" and last.is_dir() == (strategy == "fsdp")
    handle, stage = Run(tmp_path), toy.ToyStage(STEPS, dropout=0)
    train(stage, toy.batches, handle, CFG, seed=1, resume=last)
    handle.close()
    assert stage.trained == [12, 13]
    torch.testing.assert_close(weights(tmp_path), weights(one), rtol=1e-5, atol=1e-5)


def test_replicas_that_drift_apart_are_told_with_the_tensor_before_anything_is_saved(pair, facts):
    for fact in facts:
        assert "after step 8" in fact["drift"] and "net.3.bias (process 1)" in fact["drift"]
    assert [step for step, _ in checkpoint.steps(pair / "drift" / "checkpoints")] == [4]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gradients_are_exchanged_once_an_update(facts, strategy):
    one, four = facts[0]["sums"][strategy]
    assert one == four >= 2  # the gradients, and what the stage itself sums


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun --nproc_per_node=1
    assert dist.start() == dist.device()
    assert not torch.distributed.is_initialized()
    assert (dist.rank(), dist.world(), dist.is_main()) == (0, 1, True)
    assert dist.all_reduce_sum(2.5) == 2.5 and dist.broadcast_object("x") == "x" and dist.all_gather_object("x") == ["x"]
    net = nn.Linear(1, 1)
    assert dist.wrap(net) is net and dist.wrap(net, dist.DistConfig(strategy="fsdp")) is net and not fsdp.is_sharded(net)
    with dist.sync(net, False):
        net(torch.zeros(1, 1)).sum().backward()
    dist.barrier()
    dist.stop()


@pytest.mark.parametrize(("key", "valid"), [("strategy", "ddp or fsdp"), ("backend", "auto, gloo, nccl")])
def test_an_unknown_setting_is_refused(key, valid):
    with pytest.raises(ValueError, match=f'dist.{key} must be {valid}, got "dpp"'):
        dist.DistConfig(**{key: "dpp"})


def test_nccl_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"dist.backend=nccl needs GPUs.*gloo"):
        dist.start(dist.DistConfig(backend="nccl"))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                        "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="2 processes on a machine with 1 GPUs; start 1"):
        dist.start()
