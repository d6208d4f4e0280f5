"""Trains the networks that tell from a frame of CARLA's Town01 where it was taken.

As FDM's, but for these: cross-entropy in place of its binary one, whose shapes do not fit; AdamW with a cosine in place of SGD
with steps; the coordinates' squared error in units of half a cell, so that heads begin at a loss of about one.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evals.carla_config import CarlaConfig
from evals.carla_data import Places
from evals.carla_map import TOWN01, draw_map
from evals.carla_model import KIND, CarlaNet, start_from, to_images
from tools import checkpoint, dist
from tools.loading import check_batch, loader
from tools.log import Run
from tools.loop import not_begun, train
from tools.modelfile import WEIGHTS
from tools.optim import apply_update, load_optimizer, make_optimizer
from tools.rng import batch_rand, fork

BLUR, SIGMA, BRIGHTNESS, HUE = [5, 9], (0.1, 5.0), 0.1, 0.1  # kernel along x and y; largest changes


def train_carla(cfg: CarlaConfig, run: Run, *, resume: str | None = None, init_from: str | None = None) -> None:
    """Train both networks on the frames of cfg.data.

    Args:
        run: the claimed run folder.
        resume: checkpoint file to continue from.
        init_from: model whose weights a new run starts from; see carla_model.start_from.
    """
    check_batch(cfg.loop.batch_size, 1, cfg.loop.micro_batch)
    with fork(cfg.train.seed, "init"):
        net = CarlaNet(cfg.model.arch)
    if init_from and not_begun(run):
        run.log(f"starting from {start_from(net, init_from)}")
    source = cfg.data.open()
    places = Places(source, size=cfg.data.size, seed=cfg.train.seed, resize=cfg.data.resize)
    held_out, note = _held_out(cfg, places)
    for text in (f"{cfg.data.name} {cfg.data.split}: {len(source)} videos, {len(places)} frames in "
                 f"{len(TOWN01.cells(places.coords).unique())} of {TOWN01.count} cells", *source.notes, note):
        run.log(text)
    frames, coords = held_out.some(cfg.train.validation_frames)
    stage = CarlaStage(cfg, net.to(dist.device()), places, frames, coords)
    parameters = sum(p.numel() for p in net.parameters())
    run.log(f"two {cfg.model.arch}: {parameters / 1e6:.2f} M parameters; an answer that looks at nothing, the mean place, "
            f"errs by {stage.spread():.4g} m on the validation frames")
    batches = partial(_batches, places, cfg)
    train(stage, batches, run, cfg.loop, seed=cfg.train.seed, resume=Path(resume) if resume else None)


def _held_out(cfg: CarlaConfig, places: Places) -> tuple[Places, str]:
    """The drives of the test side, or, where there are none, those of the training."""
    if cfg.data.split != "train":
        return places, f"validation: frames of the training videos (data.split={cfg.data.split})"
    try:
        source = cfg.data.open("test")
    except ValueError as error:
        return places, f"validation: frames of the training videos (the test side cannot be opened: {error})"
    held_out = Places(source, size=cfg.data.size, seed=cfg.train.seed, resize=cfg.data.resize)
    return held_out, f"validation: frames of {len(source)} test videos"


def _batches(places: Places, cfg: CarlaConfig, start: int, stop: int):
    return loader(places, batch_size=cfg.loop.batch_size, start_step=start, stop_step=stop, micro_batch=cfg.loop.micro_batch,
                  workers=cfg.data.workers, pin=dist.device().type == "cuda")


def augment(frames: Tensor, index: Tensor, seed: int) -> Tensor:
    """Blur each frame and change its brightness and hue: uint8 n h w 3 -> float n h w 3 in 0..1, alike in any batch."""
    from torchvision.transforms.v2 import functional as change  # takes a second, which only training needs

    draws = batch_rand((3,), index, seed, "carla", "augment")
    changed = []
    for pixels, (blur, light, hue) in zip(frames.permute(0, 3, 1, 2) / 255, draws.tolist()):
        pixels = change.gaussian_blur(pixels, BLUR, [SIGMA[0] + blur * (SIGMA[1] - SIGMA[0])] * 2)
        pixels = change.adjust_brightness(pixels, 1 + BRIGHTNESS * (2 * light - 1))
        changed.append(change.adjust_hue(pixels, HUE * (2 * hue - 1)))
    return torch.stack(changed).permute(0, 2, 3, 1)


class CarlaStage:
    """What the training loop runs (see tools/loop.py).

    Args:
        net: on the device where it trains.
        places: tells where the frames of a batch were taken.
        frames: of validation, uint8 n h w 3.
        coords: where these were taken, n 2.
    """

    def __init__(self, cfg: CarlaConfig, net: CarlaNet, places: Places, frames: Tensor, coords: Tensor):
        self.cfg, self.net, self.places, self.frames, self.coords = cfg, net, places, frames, coords
        self.best = cfg.best()
        self.device = next(net.parameters()).device
        self.optimizer = make_optimizer(net, cfg.optim)
        self.config = {"arch": cfg.model.arch, "size": list(cfg.data.size), "map": asdict(TOWN01)}

    def train_step(self, step: int, micro_batches: list[dict[str, Tensor]], total: int) -> dict[str, Any]:
        """Make update number `step` of both networks from a batch of `total` frames."""
        sums = torch.zeros(4, device=self.device)
        for batch in micro_batches:
            frames, coords = batch["frames"].to(self.device), self.places.coords_of(batch["index"]).to(self.device)
            if self.cfg.train.augment:
                frames = augment(frames, batch["index"], self.cfg.train.seed)
            cells = TOWN01.cells(coords)
            made = self.net(to_images(frames), cells)
            cell = F.cross_entropy(made.logits, cells, reduction="sum") / total
            place = ((made.coords - coords) / (TOWN01.side / 2)).square().mean(1).sum() / total
            (cell + place).backward()
            with torch.no_grad():
                right = (made.logits.argmax(1) == cells).sum() / total
                metres = (made.coords - coords).norm(dim=1).sum() / total
                sums += torch.stack([cell, place, right, metres])
        cell, place, right, metres = sums
        gradient = apply_update(self.optimizer, self.net, self.cfg.optim, step, self.cfg.loop.steps, loss=cell + place)
        return {"loss": cell + place, "cell": cell, "place": place, "accuracy": right, "error": metres, "gradient": gradient}

    @torch.no_grad()
    def _located(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the validation frames: the cells told, the places told, and those that the true cells' heads tell."""
        self.net.eval()
        found = []
        size = self.cfg.loop.micro_batch or self.cfg.loop.batch_size
        for frames, coords in zip(self.frames.split(size), self.coords.split(size)):
            images = to_images(frames.to(self.device))
            told = self.net(images)
            found.append((told.logits.argmax(1), told.coords, self.net.regressor(images, TOWN01.cells(coords).to(self.device))))
        self.net.train()
        return tuple(torch.cat(parts).cpu() for parts in zip(*found))

    def validate(self, step: int) -> dict[str, float]:
        """Mean distance to the truth in metres (and with the true cells given), and the share of cells that are right."""
        cells, told, given = self._located()
        return {"error": float((told - self.coords).norm(dim=1).mean()),
                "error_in_cell": float((given - self.coords).norm(dim=1).mean()),
                "accuracy": float((cells == TOWN01.cells(self.coords)).double().mean())}

    def spread(self) -> float:
        """The error of an answer that looks at nothing: mean distance of the validation frames to the mean of all places."""
        return float((self.coords - self.places.coords.mean(0)).norm(dim=1).mean())

    def sample(self, step: int, folder: Path) -> None:
        """Draw where the validation frames were taken, and where the networks think they were."""
        draw_map(folder / f"step-{step:08d}.png", self.coords, {"told": self._located()[1]}, f"step {step}")

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"kind": KIND, "config": self.config, "net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
                "extra": {}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        checkpoint.check_config(self.config, state["config"], "the checkpoint")
        checkpoint.load_strict(self.net, state["net"], "the checkpoint")
        load_optimizer(self.optimizer, state["optimizer"])

    def export(self, step: int, folder: Path, which: str) -> None:
        """Write model_last.pth or model_best.pth, self-describing; there are no averages, which batch norms would not fit."""
        name = "best" if which == "best" else "raw"
        checkpoint.save(folder / WEIGHTS[name], {"kind": KIND, "config": self.config, "step": step, "extra": {},
                                                 "state": self.net.state_dict(), "weights": name})
