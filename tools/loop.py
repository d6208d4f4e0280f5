"""The one training loop: what happens at which step. Stages differ in train_step only."""

import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tools import checkpoint, dist, fsdp, plot, replicas, rng
from tools.best import PANEL, Best, measured_every
from tools.log import Run
from tools.memory import peak_bytes
from tools.optim import allocate_moments

MicroBatches = list[dict[str, Tensor]]
MakeBatches = Callable[[int, int], Iterator[MicroBatches]]


@dataclass(frozen=True)
class LoopConfig:
    steps: int = 100_000            # optimizer updates
    batch_size: int = 8             # clips an update, over all processes
    micro_batch: int | None = None  # clips in one forward of a process; None = all of its share
    save_every: int = 1000          # a checkpoint each so many steps, and one at the end; 0 = only at the end
    keep: int = 2                   # checkpoints kept
    log_every: int = 50
    validate_every: int = 1000      # and at the end; 0 = never
    patience: int = 0               # stop after so many measurements of `best` without a better one; 0 = never
    best: str | None = None         # metric that picks model_best.pth, such as panel/psnr_pooled; None = of the stage
    sample_every: int = 0           # also of panel/ metrics; 0 = never
    plot_every: int = 0             # 0 = never

    def __post_init__(self):
        for name in ("steps", "batch_size", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("save_every", "validate_every", "patience", "sample_every", "plot_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"loop.{name} must be 0 (off) or more, got {getattr(self, name)}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"loop.micro_batch must be at least 1, got {self.micro_batch}")


class Stage(Protocol):
    """What the loop asks of a training stage. `step` is the number of updates made before the call."""

    best: tuple[str, str] | None  # the metric that picks model_best.pth, and "max" or "min"; see tools.best.best_metric
    optimizer: torch.optim.Optimizer  # whose rate is recorded

    def train_step(self, step: int, micro_batches: MicroBatches, total: int) -> Mapping[str, float | Tensor]:
        """Make one update; `total` is the number of clips in it over all processes.

        The returned numbers are averaged over steps and processes, which all return the same names.
        """

    def validate(self, step: int) -> Mapping[str, float]:
        """Measure the net on held-out data, in one process."""

    def sample(self, step: int, folder: Path) -> None:
        """Write something to look at, in one process."""

    def panel(self, step: int) -> Mapping[str, float]:
        """Measure samples, after `sample` and like it; nothing where that is not asked for; may be absent."""

    def histograms(self, step: int) -> Mapping[str, Tensor]:
        """Return values whose distribution is worth watching, such as latents, in one process; may be absent."""

    def state(self) -> dict[str, Any]:
        """Return all that continues the training, bit for bit: nets, averages, optimizers, regularisers."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from state(), in every process."""

    def export(self, step: int, folder: Path, which: str) -> None:
        """Write the model files of `which`, "last" or "best", to the run folder; all processes call it, the first writes."""

    def gathered(self) -> AbstractContextManager[None]:
        """In this block, one process can validate and sample; where weights are shards all put them together; may be absent."""


class Window:
    """Means of the metrics since the last log line; sums stay on the device, so that no step waits."""

    def __init__(self, state: Mapping[str, tuple[float, float]] | None = None):
        world = dist.world()  # a saved sum is over all processes
        self.sums: dict[str, Any] = {name: total / world for name, (total, _) in (state or {}).items()}
        self.counts = {name: count / world for name, (_, count) in (state or {}).items()}

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        """Take in the metrics of one step."""
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else float(value)
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def state(self) -> dict[str, tuple[float, float]]:
        """Return name -> (sum, count) over all processes, which must all call this."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        device = next((v.device for v in self.sums.values() if isinstance(v, Tensor)), None)
        sums = torch.stack([torch.as_tensor(self.sums[n], dtype=torch.float64, device=device) for n in names])
        counts = torch.tensor([self.counts[n] for n in names], dtype=torch.float64, device=device)
        totals, counts = dist.all_reduce_sum(torch.stack([sums, counts])).tolist()
        return {name: (totals[i], counts[i]) for i, name in enumerate(names)}

    def means(self) -> dict[str, float]:
        """Return the means over steps and processes (all must call this), and start a new window."""
        state = self.state()
        self.sums, self.counts = {}, {}
        return {name: total / count for name, (total, count) in state.items()}


class Stop:
    """Turns SIGTERM and ctrl-C into a request, answered between two steps. A later ctrl-C stops at once.

    A signal to the process group arrives twice in each process, since torchrun passes on its own.
    """

    def __init__(self):
        self.signum: int | None = None
        self.since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _ask(self, signum, frame):
        if self.signum is None:
            self.signum, self.since = signum, time.monotonic()
            os.write(2, b"\nstopping after this step\n")  # print is not safe in a signal handler
        elif signum == signal.SIGINT and time.monotonic() > self.since + 1:
            raise SystemExit(128 + signum)

    def agreed(self) -> int | None:
        """Return the signal if any process has received one: all stop after the same step."""
        asked = dist.all_reduce_sum(float(self.signum is not None))
        return (self.signum or signal.SIGTERM) if asked else None


class Training:
    """A stage somewhere between its first and its last step."""

    def __init__(self, stage: Stage, run: Run, cfg: LoopConfig, seed: int):
        self.stage, self.run, self.cfg, self.seed = stage, run, cfg, seed
        self.step = 0           # updates made
        self.inside = False     # an update is half made
        self.due = False        # an update is made and not reported
        self.best, self.judge = Best(), stage.best[0] if stage.best else ""
        self.window = Window()
        self.clock = time.monotonic()     # of the last log line; since then:
        self.timed, self.seconds, self.waited = 0, 0.0, 0.0  # steps, seconds in them, of which for data

    def restore(self, resume: Path | None) -> None:
        """Continue from the run's own last checkpoint, else from the file `resume`, else start."""
        own = checkpoint.latest(self.run.checkpoints) if dist.is_main() else None
        own, path = dist.broadcast_object((own is not None, own or resume))
        if path is not None:
            payload = checkpoint.load(path, like=self._shards())
            if "stage" not in payload:
                raise ValueError(f"{path} is a model file, wanted a run's checkpoints/step-*.pt; "
                                 "--init_from starts a new run from a model's weights")
            self.stage.load_state(payload["stage"])
            self.step = payload["step"]
            if own:  # another run's best weights are in another folder
                self.best, self.window = Best(*payload["best"]), Window(payload["window"])
            self.run.log(f"continuing after step {self.step} from {path}")
            self.due = own and payload["due"]
        self.run.cut(self.step - self.due)
        incomplete = self.due or (path is not None and not own)
        if self.due:  # the run was interrupted between this step and its report
            self.report()
        if incomplete and self.finished():
            self.save()

    def _shards(self) -> dict[str, Any] | None:
        """Where a sharded checkpoint is read into, if this training is sharded."""
        if not any(fsdp.is_sharded(value) for _, value in replicas.named_tensors(self.stage.state())):
            return None
        allocate_moments(self.stage.optimizer)
        return {"stage": self.stage.state()}

    def finished(self) -> bool:
        """Tell whether no step is left, or what picks the best has not improved for too long."""
        idle = self.cfg.patience * measured_every(self.cfg, self.judge)
        return self.step >= self.cfg.steps or bool(
            idle and self.best.value is not None and self.step - self.best.step >= idle)

    def advance(self, batches: Iterator[MicroBatches]) -> None:
        """Fetch the next batch and make one update."""
        before = time.monotonic()
        micro_batches = next(batches, None)
        assert micro_batches is not None, f"the loader ended at step {self.step} of {self.cfg.steps}"
        self.waited += time.monotonic() - before
        rng.seed_torch(self.seed, "torch", self.step, dist.rank())
        self.inside = True
        values = self.stage.train_step(self.step, micro_batches, self.cfg.batch_size)
        self.window.add({**values, "learning_rate": self.stage.optimizer.param_groups[0]["lr"]})
        self.inside, self.due = False, True
        self.step += 1
        self.timed += 1
        self.seconds += time.monotonic() - before

    def report(self) -> None:
        """Do what is due after this step, but for the checkpoint, which comes last."""
        if self._due(self.cfg.log_every):
            self.log()
        looks = [(self.cfg.validate_every, self.validate), (self.cfg.sample_every, self.sample)]
        for every, look in reversed(looks) if self.judge.startswith(PANEL) else looks:  # the judge first: it may end the run
            if self._due(every):
                look()
        if self._due(self.cfg.plot_every):
            self.alone("plot", lambda: plot.plot(self.run.folder / "metrics.jsonl",
                                                 self.run.samples / "curves.png"))
        self.due = False

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.finished())

    def alone(self, what: str, call: Callable[[], Any]) -> Any:
        """Run a call in the first process only and return its result in all; torch's generator is kept."""
        result = None
        with getattr(self.stage, "gathered", nullcontext)():
            if dist.is_main():
                with rng.fork(self.seed, what, self.step):
                    result = call()
        return dist.broadcast_object(result)

    def log(self) -> None:
        """Record the means since the last time."""
        means, now, left = self.window.means(), time.monotonic(), "?"
        if self.timed:
            rate = self.timed / self.seconds
            means |= {"steps_per_second": rate, "clips_per_second": rate * self.cfg.batch_size,
                      "waiting": self.waited / self.seconds, "peak_mb": peak_bytes() / 2**20}
            rest = (self.cfg.steps - self.step) * (now - self.clock) / self.timed  # validation and saving too
            left = str(datetime.timedelta(seconds=round(rest)))
        self.run.metrics(self.step, {f"train/{name}": value for name, value in means.items()})
        self.run.log(f"step {self.step}/{self.cfg.steps}  {_words(means)}  left {left}",
                     echo=not self.run.bar_shown)
        self.run.postfix(f"loss {means['loss']:.4g}" if "loss" in means else "")
        self.clock, self.timed, self.seconds, self.waited = now, 0, 0.0, 0.0

    def sample(self) -> None:
        """Let the stage write something to look at, and measure samples if it does."""
        values = self.alone("sample", self.show)
        if values:
            self.record("panel", values, "panel")

    def show(self) -> dict[str, float]:
        """Show what the stage has written, and return what it measured."""
        self.stage.sample(self.step, _made(self.run.samples))
        self.run.show(self.step, sorted(self.run.samples.glob(f"*{self.step:08d}.*")))
        measured = getattr(self.stage, "panel", None)
        return dict(measured(self.step)) if measured else {}

    def watch(self) -> None:
        """Show the distributions that the stage tells, if it tells any."""
        told = getattr(self.stage, "histograms", None)
        for name, values in (told(self.step) if told else {}).items():
            self.run.histogram(self.step, name, values.detach().float().cpu().numpy())

    def validate(self) -> None:
        """Measure the stage on held-out data."""
        self.alone("histograms", self.watch)
        values = self.alone("validate", lambda: dict(self.stage.validate(self.step)))
        self.record("validate", values, "validation")

    def record(self, group: str, values: Mapping[str, float], words: str) -> None:
        """Record measurements, and keep the weights if they are the best so far by the metric that judges."""
        self.run.metrics(self.step, {f"{group}/{name}": value for name, value in values.items()})
        judges = self.stage.best is not None and self.judge.startswith(PANEL) == (group == "panel")
        better = judges and self.best.update(values[self.judge.removeprefix(PANEL)], self.stage.best[1], self.step)
        if better:
            self.stage.export(self.step, self.run.folder, "best")
        self.run.log(f"step {self.step}/{self.cfg.steps}  {words}: {_words(values)}{'  (best)' if better else ''}")

    def save(self) -> None:
        """Write the model files, then the checkpoint: what a checkpoint promises is there before it is."""
        window = self.window.state()
        state = self.stage.state()
        replicas.check(state, self.step)
        self.stage.export(self.step, self.run.folder, "last")
        path = None
        if dist.is_main():
            self.run.flush()
            path = checkpoint.step_path(self.run.checkpoints, self.step)
        checkpoint.save_together(dist.broadcast_object(path), {
            "kind": "training", "step": self.step, "stage": state, "window": window, "due": self.due,
            "best": (self.best.value, self.best.step)})
        if dist.is_main():
            checkpoint.prune(self.run.checkpoints, self.cfg.keep)
        dist.barrier()

    def leave(self, signum: int) -> None:
        """Save and exit as a signal asks."""
        name = signal.Signals(signum).name
        if self.inside:
            self.run.log(f"{name} inside of step {self.step}; run the same command to continue from the last "
                         "checkpoint")
        else:
            self.save()
            self.run.log(f"{name}: saved after step {self.step}; run the same command to continue")
        self.run.close()
        raise SystemExit(128 + signum)


def not_begun(run: Run) -> bool:
    """Tell, in every process, whether a run has no checkpoint of its own, so that what it starts from matters."""
    return dist.broadcast_object(dist.is_main() and checkpoint.latest(run.checkpoints) is None)


def train(stage: Stage, make_batches: MakeBatches, run: Run, cfg: LoopConfig, *, seed: int = 0,
          resume: Path | None = None) -> None:
    """Train a stage to its last step, from the run's own last checkpoint if it has one.

    A run that is killed at any time and started again ends in the same weights, bit for bit: batches, random
    numbers and rates are functions of the step, and a checkpoint holds all else.

    Args:
        make_batches: (start_step, stop_step) -> iterator over steps of this process's micro-batches.
        resume: checkpoint to begin with where the run has none of its own.

    Raises:
        SystemExit: SIGTERM (143) or ctrl-C (130); a checkpoint was written.
        FloatingPointError: from the stage, when a loss or gradient is not finite.
    """
    training = Training(stage, run, cfg, seed)
    training.restore(resume)
    if training.finished():
        run.log(f"the run in {run.folder} is finished: {training.step} of {cfg.steps} steps; "
                "raise --steps to go on")
        return
    with Stop() as stop, run.progress(cfg.steps, training.step) as bar:
        batches = iter(make_batches(training.step, cfg.steps))
        while not training.finished():
            try:
                training.advance(batches)
            except RuntimeError:  # a signal to the whole process group kills the data workers too
                if stop.signum is None or dist.world() > 1:
                    raise
                training.leave(stop.signum)
            bar.update()
            if signum := stop.agreed():
                training.leave(signum)
            training.report()
            if training.finished() or (cfg.save_every and training.step % cfg.save_every == 0):
                training.save()
    run.log(f"finished after step {training.step}: {run.folder}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _words(values: Mapping[str, float]) -> str:
    ordered = sorted(values.items(), key=lambda item: item[0] != "loss")  # what one looks for first
    return "  ".join(f"{name} {value:.4g}" for name, value in ordered)
