"""A training stage of a few numbers with everything that resume must carry: dropout, EMA, Adam, own state."""

from pathlib import Path

import torch
from torch import nn

from tools import checkpoint, dist, fsdp, rng
from tools.ema import Ema, EmaConfig
from tools.optim import OptimConfig, apply_update, load_optimizer, make_optimizer

BATCH = 8
TIMING = {"train/steps_per_second", "train/clips_per_second", "train/waiting", "train/peak_mb"}  # never the same twice


def batches(start, stop, *, seed=0, micro=2):
    """Micro-batches of this process: sample g of the run is a function of (seed, g)."""
    for step in range(start, stop):
        index = [step * BATCH + j for j in range(dist.rank(), BATCH, dist.world())]
        x = rng.batch_randn((4,), index, seed, "x")
        cuts = [slice(i, i + micro) for i in range(0, len(x), micro)]
        yield [{"x": x[cut], "index": torch.tensor(index[cut])} for cut in cuts]


class ToyStage:
    best = ("error", "min")

    def __init__(self, steps, dropout=0.3, strategy="ddp"):
        with rng.fork(0, "init"):
            self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.steps = steps
        self.ddp = dist.wrap(self.net, dist.DistConfig(strategy=strategy))
        self.cfg = OptimConfig(lr=0.02, warmup=3, schedule="cosine", clip_norm=0.5)
        self.optimizer = make_optimizer(self.net, self.cfg)
        self.ema = Ema(self.net, EmaConfig(decays=(0.9, 0.99)))
        self.regulariser = torch.zeros(())  # like LeCAM's running mean
        self.trained, self.validated = [], []

    def train_step(self, step, micro_batches, total):
        losses = 0.0
        for i, batch in enumerate(micro_batches):
            with dist.sync(self.ddp, i == len(micro_batches) - 1):
                error = self.ddp(batch["x"])[:, 0] - batch["x"].sin().sum(dim=1)
                loss = error.square().sum() / total * dist.world()
                (loss + 0.01 * self.regulariser * loss).backward()
            losses = losses + loss.detach()
        self.regulariser = 0.9 * self.regulariser + 0.1 * dist.all_reduce_sum(losses) / dist.world()
        norm = apply_update(self.optimizer, self.net, self.cfg, step, self.steps, loss=losses)
        self.ema.update(self.net, step)
        self.trained.append(step)
        return {"loss": losses, "norm": norm, "odd": float(step % 2)}

    def validate(self, step):
        self.validated.append(step)
        x = torch.rand(64, 4)  # the loop makes this a function of the step
        with torch.no_grad(), self.ema.applied(self.net) as net:
            net.eval()
            error = (net(x)[:, 0] - x.sin().sum(dim=1)).square().mean().item()
            net.train()
        return {"error": error}

    def sample(self, step, folder: Path):
        (folder / f"{step}.txt").write_text(str(torch.rand(())))

    def gathered(self):
        return self.ema.gathered()

    def state(self):
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(), "regulariser": self.regulariser}

    def load_state(self, state):
        checkpoint.load_strict(self.net, state["net"], "the checkpoint")
        load_optimizer(self.optimizer, state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.regulariser = state["regulariser"]

    def export(self, step, folder, which):
        payload = {"kind": "toy", "step": step, "state": fsdp.gathered(self.ema.weights())}
        if dist.is_main():
            checkpoint.save(folder / f"model_{which}.pth", payload)
