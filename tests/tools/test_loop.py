import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy

from tools import checkpoint
from tools.log import Run, read_metrics
from tools.loop import LoopConfig, Stop, train
from tools.optim import learning_rate
from tools.writers import write_png

STEPS = 23
CFG = LoopConfig(steps=STEPS, batch_size=toy.BATCH, save_every=4, log_every=3, validate_every=5,
                 sample_every=10)


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs in this process."""


def run(folder, stage=None, cfg=CFG, make_batches=toy.batches, **options):
    stage = stage or toy.ToyStage(cfg.steps)
    handle = Run(folder)
    try:
        train(stage, make_batches, handle, cfg, seed=1, **options)
    finally:
        handle.close()
    return stage


def outcome(folder):
    """All that a run leaves, but for its timing."""
    last = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    flat = {}
    for where in ("net", "optimizer", "ema"):
        flat |= {f"{where}.{k}": v for k, v in flatten(last["stage"][where])}
    metrics = [r for r in read_metrics(folder / "metrics.jsonl") if r["name"] not in toy.TIMING]
    best = checkpoint.load(folder / "model_best.pth")
    return {"step": last["step"], "best": last["best"], "best_step": best["step"], "metrics": metrics,
            "best_hash": checkpoint.state_hash(best["state"]), "hash": checkpoint.state_hash(flat),
            "last_hash": checkpoint.state_hash(checkpoint.load(folder / "model_last.pth")["state"]),
            "samples": {p.name: p.read_text() for p in (folder / "samples").glob("*.txt")}}


def flatten(tree, prefix=""):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, (dict, list)):
            yield from flatten(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return outcome(folder)


def kill_in_step(stage, monkeypatch, at):
    make = stage.train_step

    def train_step(step, *args):
        if step == at:
            stage.net[0].weight.data.zero_()  # an update half made
            raise Killed
        return make(step, *args)
    stage.train_step = train_step


def kill_in_call(stage, monkeypatch, owner, name, at, after):
    """Die in the `at`-th call, with its work done or not."""
    make, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == at and not after:
            raise Killed
        result = make(*args, **kwargs)
        if len(calls) == at:
            raise Killed
        return result
    monkeypatch.setattr(owner, name, call)


KILLS = {
    "first step": lambda s, m: kill_in_step(s, m, 0),
    "before the first checkpoint": lambda s, m: kill_in_step(s, m, 3),
    "in a later step": lambda s, m: kill_in_step(s, m, 14),
    "last step": lambda s, m: kill_in_step(s, m, STEPS - 1),
    "before a validation": lambda s, m: kill_in_call(s, m, s, "validate", 2, after=False),
    "after a validation": lambda s, m: kill_in_call(s, m, s, "validate", 2, after=True),
    "before a best export": lambda s, m: kill_in_call(s, m, s, "export", 3, after=False),
    "after an export, before its checkpoint": lambda s, m: kill_in_call(s, m, s, "export", 5, after=True),
    "before a checkpoint takes its name": lambda s, m: kill_in_call(s, m, os, "replace", 14, after=False),
    "after a checkpoint": lambda s, m: kill_in_call(s, m, checkpoint, "prune", 3, after=False),
    "in the last checkpoint": lambda s, m: kill_in_call(s, m, checkpoint, "prune", 6, after=False),
}


@pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS.keys())
def test_killed_and_continued_equals_not_killed(tmp_path, monkeypatch, whole, kill):
    stage = toy.ToyStage(STEPS)
    with monkeypatch.context() as patch:
        kill(stage, patch)
        with pytest.raises(Killed):
            run(tmp_path / "run", stage)
    run(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


def test_killed_in_every_segment(tmp_path, monkeypatch, whole):
    for at in range(2, STEPS, 3):
        stage = toy.ToyStage(STEPS)
        kill_in_step(stage, None, at)
        with pytest.raises(Killed):
            run(tmp_path / "run", stage)
    run(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


def test_kill_minus_nine(tmp_path, whole):
    code = f"""
import os, sys, signal
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]
import test_loop, toy
stage = toy.ToyStage(test_loop.STEPS)
make = stage.train_step
stage.train_step = lambda step, *a: os.kill(os.getpid(), signal.SIGKILL) if step == 13 else make(step, *a)
test_loop.run({str(tmp_path / "run")!r}, stage)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 14, "na')  # a torn last line
    run(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("at", [6, 14, STEPS - 1])  # 14: a validation is due; the last: everything is
def test_signal_saves_and_continues_to_the_same_weights(tmp_path, whole, capsys, signum, code, at):
    stage = toy.ToyStage(STEPS)
    make = stage.train_step

    def train_step(step, *args):
        if step == at:
            os.kill(os.getpid(), signum)
        return make(step, *args)
    stage.train_step = train_step
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", stage)
    assert stop.value.code == code and signal.getsignal(signum) is before
    assert f"saved after step {at + 1}; run the same command to continue" in capsys.readouterr().out
    assert checkpoint.latest(tmp_path / "run/checkpoints").name == f"step-{at + 1:08d}.pt"
    resumed = run(tmp_path / "run")
    assert resumed.trained == list(range(at + 1, STEPS))
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("signum, pause, at_once", [
    (signal.SIGINT, 0, False),  # the same ctrl-C, passed on by torchrun
    (signal.SIGINT, 5, True),   # a person who does not want to wait
    (signal.SIGTERM, 5, False),
])
def test_a_second_signal(monkeypatch, signum, pause, at_once):
    clock = [100.0]
    monkeypatch.setattr("tools.loop.time.monotonic", lambda: clock[0])
    with Stop() as stop:
        os.kill(os.getpid(), signum)
        clock[0] += pause
        if at_once:
            with pytest.raises(SystemExit):
                os.kill(os.getpid(), signum)
        else:
            os.kill(os.getpid(), signum)
        assert stop.agreed() == signum


def test_dying_data_workers_do_not_spoil_a_stop(tmp_path, whole):
    # A signal to the process group reaches the workers of the loader as well, and the fetch fails.
    def make_batches(start, stop):
        for step, batch in zip(range(start, stop), toy.batches(start, stop)):
            if step == 9 and start == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                raise RuntimeError("DataLoader worker exited unexpectedly")
            yield batch
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", make_batches=make_batches)
    assert stop.value.code == 143
    assert run(tmp_path / "run").trained[0] == 9
    assert outcome(tmp_path / "run") == whole


def test_a_finished_run_says_so_and_trains_nothing(tmp_path, capsys, whole):
    run(tmp_path / "run")
    capsys.readouterr()
    assert run(tmp_path / "run").trained == []
    assert "is finished: 23 of 23 steps" in capsys.readouterr().out
    assert outcome(tmp_path / "run") == whole


def recorded(folder, name):
    return {r["step"]: r["value"] for r in read_metrics(folder / "metrics.jsonl") if r["name"] == name}


def test_cadence(tmp_path):
    stage = run(tmp_path / "run")
    assert stage.trained == list(range(STEPS))
    assert stage.validated == [5, 10, 15, 20, 23]
    assert list(recorded(tmp_path / "run", "train/loss")) == [3, 6, 9, 12, 15, 18, 21, 23]
    assert sorted(p.name for p in (tmp_path / "run/samples").iterdir()) == ["10.txt", "20.txt", "23.txt"]
    assert [s for s, _ in checkpoint.steps(tmp_path / "run/checkpoints")] == [20, 23]


def test_logged_metrics_are_means_over_the_window(tmp_path):
    run(tmp_path / "run")
    third = 1 / 3
    assert recorded(tmp_path / "run", "train/odd") == pytest.approx(
        {3: third, 6: 2 * third, 9: third, 12: 2 * third, 15: third, 18: 2 * third, 21: third, 23: 0.5})


def test_best_is_the_best_validation(tmp_path):
    class Scripted(toy.ToyStage):
        best = ("score", "max")

        def validate(self, step):
            return {"score": {5: 1.0, 10: 3.0, 15: float("nan"), 20: 2.0, 23: 3.0}[step]}

    run(tmp_path / "run", Scripted(STEPS))
    assert checkpoint.load(tmp_path / "run/model_best.pth")["step"] == 10
    assert list(recorded(tmp_path / "run", "validate/score").values()) == [1.0, 3.0, None, 2.0, 3.0]


def test_patience_stops_and_stays_stopped(tmp_path, capsys):
    class Worse(toy.ToyStage):
        def validate(self, step):
            return {"error": float(step)}

    cfg = LoopConfig(steps=100, batch_size=toy.BATCH, save_every=50, validate_every=5, patience=2)
    assert run(tmp_path / "run", Worse(100), cfg).trained == list(range(15))
    assert checkpoint.load(tmp_path / "run/model_best.pth")["step"] == 5
    assert run(tmp_path / "run", Worse(100), cfg).trained == []


class Judged(toy.ToyStage):
    """What is measured on its samples picks the best."""
    best = ("panel/score", "max")

    def __init__(self, steps, *scores):
        super().__init__(steps)
        self.scores = dict(scores or [(10, 3.0), (20, 5.0), (23, 4.0)])

    def panel(self, step):
        return {"score": self.scores[step], "base/score": 1.0}


def test_a_metric_of_the_panel_may_pick_the_best(tmp_path, capsys):
    run(tmp_path / "run", Judged(STEPS))
    assert recorded(tmp_path / "run", "panel/score") == {10: 3.0, 20: 5.0, 23: 4.0}
    assert list(recorded(tmp_path / "run", "panel/base/score")) == [10, 20, 23]
    assert len(recorded(tmp_path / "run", "validate/error")) == 5
    assert checkpoint.load(tmp_path / "run/model_best.pth")["step"] == 20
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if "(best)" in line]
    assert told == [f"step {n}/23  panel: score {n // 10 * 2 + 1}  base/score 1  (best)" for n in (10, 20)]


def test_a_stage_that_is_judged_by_validation_may_have_a_panel(tmp_path, whole):
    class Both(Judged):
        best = toy.ToyStage.best
    run(tmp_path / "run", Both(STEPS))
    assert {**outcome(tmp_path / "run"), "metrics": 0} == {**whole, "metrics": 0}


def test_the_best_so_far_outlives_a_kill(tmp_path):
    falling = (10, 3.0), (20, 2.0), (23, 2.5)
    stage = Judged(STEPS, *falling)
    kill_in_step(stage, None, 15)
    with pytest.raises(Killed):
        run(tmp_path / "run", stage)
    run(tmp_path / "run", Judged(STEPS, *falling))
    assert checkpoint.load(tmp_path / "run/model_best.pth")["step"] == 10
    assert checkpoint.load(checkpoint.latest(tmp_path / "run/checkpoints"))["best"] == (3.0, 10)


def test_patience_counts_what_picks_the_best(tmp_path):
    worse = [(step, -step) for step in range(0, 100, 4)]
    cfg = LoopConfig(steps=100, batch_size=toy.BATCH, save_every=50, validate_every=3, sample_every=4, patience=2)
    stage = run(tmp_path / "run", Judged(100, *worse), cfg)
    assert stage.trained == list(range(12))  # best at 4, and two measurements later
    assert stage.validated == [3, 6, 9, 12]
    cfg = LoopConfig(steps=100, batch_size=toy.BATCH, save_every=50, validate_every=7, sample_every=4, patience=2)
    late = (4, 1), (8, 0), (12, 2), (16, 0), (20, 0)  # better just before patience ends
    assert run(tmp_path / "other", Judged(100, *late), cfg).validated == [7, 14, 20]  # at the end, which is not at 12


def test_resume_from_a_file_of_another_run(tmp_path, whole):
    with pytest.raises(Killed):
        stage = toy.ToyStage(STEPS)
        kill_in_step(stage, None, 13)
        run(tmp_path / "first", stage)
    file = tmp_path / "first/checkpoints/step-00000012.pt"
    assert run(tmp_path / "second", resume=file).trained == list(range(12, STEPS))
    assert outcome(tmp_path / "second")["hash"] == whole["hash"]
    # started again with the same command it goes on with its own, not with the file
    assert run(tmp_path / "second", resume=file).trained == []


def test_resume_from_the_last_step_of_another_run_leaves_its_models_here(tmp_path, whole):
    run(tmp_path / "first")
    last = checkpoint.latest(tmp_path / "first/checkpoints")
    assert run(tmp_path / "second", resume=last).trained == []
    models = [checkpoint.load(tmp_path / name / "model_last.pth")["state"] for name in ("first", "second")]
    assert checkpoint.state_hash(models[0]) == checkpoint.state_hash(models[1])


def test_a_model_file_is_no_checkpoint(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"model_last.pth is a model file.*--init_from"):
        run(tmp_path / "other", resume=tmp_path / "run/model_last.pth")


def test_a_torn_checkpoint_is_passed_by(tmp_path, whole):
    run(tmp_path / "run")
    last = checkpoint.latest(tmp_path / "run/checkpoints")
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="torn"):
        assert run(tmp_path / "run").trained == [20, 21, 22]
    assert outcome(tmp_path / "run") == whole


def test_a_non_finite_loss_stops_before_the_update(tmp_path):
    stage = toy.ToyStage(STEPS)

    def make_batches(start, stop):
        for step, micro in zip(range(start, stop), toy.batches(start, stop)):
            if step == 9:
                micro[1]["x"][0, 0] = float("nan")
            yield micro
    with pytest.raises(FloatingPointError, match="step 9"):
        run(tmp_path / "run", stage, make_batches=make_batches)
    assert all(p.isfinite().all() for p in stage.net.parameters())
    assert checkpoint.latest(tmp_path / "run/checkpoints").name == "step-00000008.pt"


def test_training_does_not_depend_on_when_it_validates_or_samples(tmp_path, whole):
    cfg = LoopConfig(steps=STEPS, batch_size=toy.BATCH, save_every=0, log_every=100, validate_every=7)
    run(tmp_path / "run", cfg=cfg)
    assert outcome(tmp_path / "run")["hash"] == whole["hash"]


def test_plot_and_log(tmp_path, capsys):
    cfg = LoopConfig(steps=6, batch_size=toy.BATCH, log_every=2, validate_every=3, plot_every=6)
    run(tmp_path / "run", toy.ToyStage(6), cfg)
    out = capsys.readouterr().out
    assert "step 2/6  loss" in out and "left 0:00:0" in out and "validation: error" in out
    assert [line.split("  ", 1)[1] for line in (tmp_path / "run/log.txt").read_text().splitlines()] == \
        out.splitlines()
    assert (tmp_path / "run/samples/curves.png").read_bytes().startswith(b"\x89PNG")
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"step", "name", "value"}


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"keep": 0}, {"log_every": 0}, {"save_every": -1},
                                   {"micro_batch": 0}, {"batch_size": 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=f"loop.{next(iter(wrong))}"):
        LoopConfig(**wrong)


# --- what is recorded ----------------------------------------------------------------------------------------

def test_rate_throughput_and_memory_are_recorded(tmp_path):
    stage = run(tmp_path / "run", toy.ToyStage(6), LoopConfig(steps=6, batch_size=toy.BATCH, log_every=3, validate_every=0))
    values = {}
    for record in read_metrics(tmp_path / "run/metrics.jsonl"):
        values.setdefault(record["name"], []).append(record["value"])
    rates = [learning_rate(step, stage.cfg, 6) for step in range(6)]
    assert values["train/learning_rate"] == pytest.approx([sum(rates[:3]) / 3, sum(rates[3:]) / 3])
    assert values["train/clips_per_second"] == pytest.approx([toy.BATCH * x for x in values["train/steps_per_second"]])
    assert all(10 < mb < 100_000 for mb in values["train/peak_mb"])


def test_what_a_stage_makes_and_tells_is_on_the_board(tmp_path):
    class Telling(toy.ToyStage):
        def sample(self, step, folder):
            write_png(folder / f"step-{step:08d}.png", np.zeros((8, 8, 3), np.uint8))

        def histograms(self, step):
            return {"latents": torch.arange(10.0) + step}

    run(tmp_path / "run", Telling(6), LoopConfig(steps=6, batch_size=toy.BATCH, log_every=6, validate_every=3, sample_every=2))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    board = EventAccumulator(str(tmp_path / "run"), {"histograms": 0, "images": 0}).Reload()  # 0 keeps all
    assert [event.step for event in board.Images("samples/picture")] == [2, 4, 6]
    assert [(event.step, event.histogram_value.min) for event in board.Histograms("latents")] == [(3, 3.0), (6, 6.0)]
