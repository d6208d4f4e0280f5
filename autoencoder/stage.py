"""One update of the autoencoder: reconstruction, and, where asked for, the game against critics."""

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoencoder.adversary import Adversary
from autoencoder.augment import augment
from autoencoder.codec import per_position
from autoencoder.config import FirstStageConfig
from autoencoder.losses import pixel_error, take_frames
from autoencoder.perceptual import PerceptualLoss, load_lpips
from autoencoder.planes import unpack
from autoencoder.saving import choose_saving
from autoencoder.spectrum import high_frequency_energy
from autoencoder.statistics import RunningStatistics
from tools import checkpoint, dist
from tools.ema import Ema
from tools.modelfile import write_models
from tools.optim import apply_update, load_optimizer, make_optimizer
from tools.rng import batch_rand, batch_randn
from tools.video import to_clip, to_frames
from tools.writers import strip, write_mp4, write_png


class AutoencoderStage:
    """What the training loop runs for the first stage (see tools/loop.py).

    Args:
        cfg: settings of the run; `model` is also what its model files carry.
        net: the autoencoder, on the device where it trains.
        validation: uint8 clips b t h w c that no training step sees (or, where there are none, fixed training clips).
    """

    kind = "autoencoder"

    def __init__(self, cfg: FirstStageConfig, net: nn.Module, validation: Tensor, model_config: dict[str, Any]):
        self.cfg, self.net, self.validation, self.model_config = cfg, net, validation, model_config
        self.best = cfg.best()
        self.device = next(net.parameters()).device
        self.saving = choose_saving(cfg, self.device)
        net.grad_checkpoint = self.saving.on
        self.ddp = dist.wrap(net, cfg.dist)
        self.optimizer = make_optimizer(net, cfg.optim)
        self.ema = Ema(net, cfg.ema)
        self.stats = RunningStatistics(net.shape, cfg.model.latent_channels)
        self.perceptual = PerceptualLoss(load_lpips()).to(self.device) if cfg.loss.perceptual_weight else None
        self.adversary = Adversary(cfg, self.device) if cfg.loss.adversarial_weight else None
        self.reference: dict[str, float] = {}  # validation before an adversarial run, which the kept best is held against

    def train_step(self, step: int, micro_batches: list[dict[str, Tensor]], total: int) -> dict[str, Any]:
        """Make update number `step` from this process's share of a global batch of `total` clips."""
        seed, frozen = self.cfg.train.seed, self.adversary is not None and self.adversary.warming_up(step)
        logs: dict[str, Any] = {}
        pairs, latents = [], []
        for i, batch in enumerate(micro_batches):
            clip = augment(to_clip(batch["frames"].to(self.device)), batch["index"], seed, flip=self.cfg.train.flip,
                           reverse=self.cfg.train.reverse, shift=self.cfg.train.shift, held=self.cfg.train.held_frames)
            pick = (batch_rand((self.cfg.loss.perceptual_frames,), batch["index"], seed, "frame")
                    * clip.shape[2]).long()  # b k
            if frozen:  # the critics first learn to judge; the autoencoder only shows what it makes
                with torch.no_grad(), self._autocast():
                    made = self.net(clip)
            else:
                with dist.sync(self.ddp, i == len(micro_batches) - 1):
                    with self._autocast():
                        made = self.ddp(clip, self._noise(batch["index"]))
                    loss = self._loss(step, clip, made.clip, pick, total, logs)
                    (loss * dist.world()).backward()  # DDP averages over processes; ours is a sum
            pairs.append((clip, made.clip.detach(), pick))
            latents.append(made.latent.detach())
        if not frozen:
            logs["gradient"] = apply_update(self.optimizer, self.net, self.cfg.optim, step, self.cfg.loop.steps,
                                            loss=torch.as_tensor(logs["loss"]))
            self.ema.update(self.net, step)
        if self.adversary:
            logs |= self.adversary.learn(step, pairs, total)
        self.stats.update(latents)
        return logs

    def _loss(self, step: int, clip: Tensor, made: Tensor, pick: Tensor, total: int, logs: dict) -> Tensor:
        cfg = self.cfg.loss
        pixel = pixel_error(made, clip, kind=cfg.pixel).mean(total)
        loss = cfg.pixel_weight * pixel
        _add(logs, cfg.pixel, pixel)
        if self.perceptual:
            perceptual = self.perceptual(take_frames(made, pick), take_frames(clip, pick)).mean(total * pick.shape[1])
            loss = loss + cfg.perceptual_weight * perceptual
            _add(logs, "lpips", perceptual)
        if self.adversary:
            loss = loss + self.adversary.against(step, loss, clip, made, pick, total, self.net.last_weight, logs)
        _add(logs, "loss", loss)
        return loss

    def _noise(self, index: Tensor) -> Tensor | None:
        """Latent noise (b c n), in proportion to the deviation of each plane and channel."""
        if not self.cfg.train.latent_noise:
            return None
        spread = per_position(self.stats.mean_std()[1].to(self.device), self.net.shape)  # c n
        drawn = batch_randn(spread.shape, index, self.cfg.train.seed, "latent noise").to(self.device)
        return self.cfg.train.latent_noise * spread * drawn

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.train.autocast == "bf16")

    def validate(self, step: int) -> dict[str, float]:
        """What `measure` gives; in an adversarial run also how far the detail is from the truth, at a guarded PSNR."""
        result = self.measure()
        if self.adversary:
            lost = max(0.0, self.reference["psnr"] - result["psnr"] - self.cfg.train.psnr_guard)
            result["sharpness_gap"] = abs(result["detail_db"]) + 10 * lost
        return result

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """PSNR (dB, mean over frames, then clips) of the EMA weights on the validation clips, and their energy at high
        spatial frequencies against the truth's (dB; negative = blurred)."""
        errors, real, made = [], 0.0, 0.0
        with self.ema.applied(self.net) as net:
            net.eval()
            for frames in self.validation.split(self.cfg.loop.micro_batch or self.cfg.loop.batch_size):
                clip = to_clip(frames.to(self.device))
                recon = to_frames(net(clip).clip)
                error = (recon.double() - frames.to(self.device).double()).square().mean((2, 3, 4))  # b t
                errors.append(error)
                real += float(high_frequency_energy(clip).sum())
                made += float(high_frequency_energy(to_clip(recon)).sum())
            net.train()
        psnr = float((10 * (255**2 / torch.cat(errors).clamp(min=255**2 * 1e-10)).log10()).mean())
        return {"psnr": psnr, "detail_db": 10 * math.log10((made + 1e-12) / (real + 1e-12))}

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> None:
        """Write validation clips above their reconstructions: a video and a strip of frames."""
        frames = self.validation[:4]
        with self.ema.applied(self.net) as net:
            recon = to_frames(net.eval()(to_clip(frames.to(self.device))).clip).cpu()
            net.train()
        rows = [video.numpy() for pair in zip(frames, recon) for video in pair]
        write_png(folder / f"step-{step:08d}.png", strip(rows))
        write_mp4(folder / f"step-{step:08d}.mp4", torch.cat([frames[:1], recon[:1]], dim=3)[0].numpy())

    @torch.no_grad()
    def histograms(self, step: int) -> dict[str, Tensor]:
        """Raw latents of held-out clips, by plane."""
        frames = self.validation[:self.cfg.loop.micro_batch or self.cfg.loop.batch_size]
        with self.ema.applied(self.net) as net:
            latent = net.eval().encode(to_clip(frames.to(self.device)))
            net.train()
        return {f"latents/{name}": plane for name, plane in unpack(latent, self.net.shape)._asdict().items()}

    def gathered(self) -> AbstractContextManager[None]:
        """In this block the first process can validate and sample, also where the weights are shards."""
        return self.ema.gathered()

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        mean, std = self.stats.mean_std()
        return {"kind": self.kind, "config": self.model_config, "net": self.net.state_dict(), "ema": self.ema.state_dict(),
                "ema_weights": self.ema.weights(), "optimizer": self.optimizer.state_dict(), "stats": self.stats.state_dict(),
                "extra": {"latent_mean": mean, "latent_std": std}, "reference": self.reference,
                "adversary": self.adversary.state_dict() if self.adversary else None}

    def load_state(self, state: dict[str, Any], *, weights_from: str = "this run") -> None:
        """Continue exactly where `state` was taken."""
        checkpoint.check_config(self.model_config, state["config"], "the checkpoint")
        checkpoint.load_strict(self.net, state["net"], weights_from)
        self.ema.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.stats.load_state_dict(state["stats"])
        self.reference = dict(state["reference"])
        if self.adversary and state["adversary"]:
            self.adversary.load_state_dict(state["adversary"])

    def continue_from(self, state: dict[str, Any], source: str) -> None:
        """Start from another run's checkpoint: weights, averages, optimizers and critics, on every process."""
        self.load_state(state | {"reference": {}}, weights_from=source)

    def take_reference(self) -> None:
        """Measure what an adversarial run starts from, which its best checkpoint is held against."""
        if self.adversary:
            with self.gathered():
                self.reference = self.measure() if dist.is_main() else {}

    def export(self, step: int, folder: Path, which: str) -> None:
        """Write model_last.pth and ema_model_last.pth ("last"), or model_best.pth ("best"), self-describing."""
        mean, std = self.stats.mean_std()
        write_models(folder, which, self.net, self.ema, {"kind": self.kind, "config": self.model_config, "step": step,
                                                         "extra": {"latent_mean": mean, "latent_std": std}})


def _add(logs: dict[str, Any], name: str, share: Tensor) -> None:
    """Sum the shares that micro-batches and processes have in a mean; the loop averages over processes."""
    logs[name] = logs.get(name, 0) + share.detach() * dist.world()
