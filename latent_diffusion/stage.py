"""One update of the latent diffusion: encode, choose what is known, add noise, predict."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoencoder.codec import Codec
from autoencoder.planes import unpack
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import AnyContext, LatentDenoiser
from latent_diffusion.example import Example, ExampleMaker, from_latents
from latent_diffusion.gamma import shaped_noise
from latent_diffusion.modelfile import DiffusionModel, with_defaults
from latent_diffusion.panel import open_panel
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.process import add_noise, sample_losses, target
from latent_diffusion.schedule import training_level
from tools import checkpoint, dist
from tools.ema import Ema
from tools.modelfile import write_models
from tools.optim import apply_update, load_optimizer, make_optimizer
from tools.rng import batch_rand, batch_randn
from tools.video import to_clip
from tools.writers import grid_frames, strip, write_mp4, write_png


class DiffusionStage:
    """What the training loop runs for the second stage (see tools/loop.py).

    Args:
        cfg: settings of the run.
        net: the denoiser, on the device where it trains.
        codec: the frozen autoencoder, on the same device.
        validation: uint8 windows b t h w c (t over all clips of a window).
        model_config: what the model files carry.
        codec_payload: the autoencoder's own model file, which the model files carry too.
    """

    kind = "diffusion"

    def __init__(self, cfg: DiffusionStageConfig, net: LatentDenoiser, codec: Codec, validation: Tensor,
                 model_config: dict[str, Any], codec_payload: dict[str, Any]):
        self.cfg, self.net, self.codec, self.validation = cfg, net, codec, validation
        self.model_config, self.codec_payload = model_config, codec_payload
        self.examples = ExampleMaker(codec, net.condition, cfg.mask, cfg.train)
        self.held_out: list[tuple[Tensor, Example]] = []  # the validation's indices and examples
        self.device = next(net.parameters()).device
        self.ddp = dist.wrap(net, cfg.dist)
        self.optimizer = make_optimizer(net, cfg.optim)
        self.ema = Ema(net, cfg.ema)
        self.best = cfg.best()
        self.predicted = open_panel(self.as_model(0), validation, cfg.train)

    def train_step(self, step: int, micro_batches: list[dict[str, Tensor]], total: int) -> dict[str, Any]:
        """Make update number `step` from this process's share of a global batch of `total` windows."""
        shown = torch.zeros((), device=self.device)
        for i, batch in enumerate(micro_batches):
            example = self.prepare(batch["frames"], batch["index"]) if "frames" in batch else self.recall(batch)
            with dist.sync(self.ddp, i == len(micro_batches) - 1):
                loss = self.losses(self.ddp, example, batch["index"], "train").sum() / total
                (loss * dist.world()).backward()  # DDP averages over processes; ours is a sum
            shown += loss.detach() * dist.world()
        norm = apply_update(self.optimizer, self.net, self.cfg.optim, step, self.cfg.loop.steps, loss=shown)
        self.ema.update(self.net, step)
        return {"loss": shown, "gradient": norm}

    @torch.no_grad()
    def prepare(self, frames: Tensor, index: Tensor, stream: str = "train") -> Example:
        """Encode windows (uint8 b t h w c), and choose what of them is known; see ExampleMaker.make."""
        example = self.examples.make(frames.to(self.device), index, stream)
        return example._replace(context=self._noise_history(example.context, index, stream))

    def recall(self, batch: dict[str, Tensor]) -> Example:
        """The same from latents that were encoded beforehand; see latent_cache.py."""
        example = from_latents(batch, self.device)
        return example._replace(context=self._noise_history(example.context, batch["index"], "train"))

    def _noise_history(self, context: AnyContext, index: Tensor, stream: str) -> AnyContext:
        """Make the context of some samples noisy while training; see HistoryNoiseConfig."""
        cfg, shape = self.cfg.train.history_noise, context.latents.shape[1:]
        if not cfg.sigma or stream != "train":
            return context
        u = batch_rand((1 + shape[0],), index, self.cfg.train.seed, stream, "history")
        level = torch.where(u[:, :1] < cfg.rate, cfg.sigma * u[:, 1:], 0.0).to(self.device)
        noise = batch_randn(shape, index, self.cfg.train.seed, stream, "history", "noise").to(self.device)
        return self.net.condition.noised(context, level, noise)

    def losses(self, net: torch.nn.Module, example: Example, index: Tensor, stream: str) -> Tensor:
        """Mean loss of each sample, b, at a level and with noise that follow from its index."""
        seed, latent = self.cfg.train.seed, example.latent
        u = self._level_draws(example, index, stream).to(self.device)
        noise = batch_randn(latent.shape[1:], index, seed, stream, "noise").to(self.device)
        level = training_level(self.cfg.schedule, u)
        noise = shaped_noise(noise, level, self.cfg.process)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.train.autocast == "bf16"):
            output = net(add_noise(latent, noise, level), level.t, example.context)
        wanted = target(latent, noise, level, self.cfg.process.parametrisation)
        loss = sample_losses(output, wanted, level, self.cfg.process, example.keep)
        return loss.sum / loss.count

    def _level_draws(self, example: Example, index: Tensor, stream: str) -> Tensor:
        """Uniform draws of the levels: b, or b s for the slots of a window, which are alike if it says so."""
        if example.keep is None:
            return batch_rand((), index, self.cfg.train.seed, stream, "level")
        slots, own = example.keep.shape[1], self.net.condition.levels_of_targets == "own"
        return batch_rand((slots if own else 1,), index, self.cfg.train.seed, stream, "level").expand(-1, slots)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Loss of the averaged weights on held-out windows, at the same levels and noise each time."""
        size = self.cfg.loop.micro_batch or self.cfg.loop.batch_size
        with self.ema.applied(self.net) as net:
            net.eval()
            if not self.held_out:  # always the same: encoded at the first time
                parts = zip(torch.arange(len(self.validation)).split(size), self.validation.split(size))
                self.held_out = [(index, self.prepare(frames, index, "validate")) for index, frames in parts]
            losses = [self.losses(net, example, index, "validate") for index, example in self.held_out]
            net.train()
        return {"loss": float(torch.cat(losses).double().mean())}

    def sample(self, step: int, folder: Path) -> None:
        """Write predictions beside the truth, and free generations: a strip of frames and a video."""
        t, condition = self.codec.frames, self.net.condition
        continues = "past" in condition.sees or condition.observes
        with self.ema.applied(self.net) as net:
            model = self.as_model(step, net.eval())
            rows, known = [], None
            if continues and self.validation.shape[1] >= 2 * t:
                truth, known = self.validation[:2, :2 * t], torch.arange(2 * t) < t
                made = model.complete(truth, known.expand(len(truth), -1), steps=self.cfg.train.sample_steps)
                rows += [video.numpy() for pair in zip(truth, made) for video in pair]
            rows += list(model.generate(2, frames=2 * t if continues else t, steps=self.cfg.train.sample_steps).numpy())
            net.train()
        write_png(folder / f"step-{step:08d}.png", strip(rows))
        write_mp4(folder / f"step-{step:08d}.mp4", grid_frames(rows, columns=2))  # truth beside sample, then what is free

    def panel(self, step: int) -> dict[str, float]:
        """How well the averaged weights predict the panel's windows (see panel.py); nothing where there is no panel."""
        if self.predicted is None:
            return {}
        size = self.cfg.loop.micro_batch or self.cfg.loop.batch_size
        with self.ema.applied(self.net) as net:
            values = self.predicted.measure(self.as_model(step, net.eval()), size)
            net.train()
        return values

    @torch.no_grad()
    def histograms(self, step: int) -> dict[str, Tensor]:
        """Latents that are predicted, by plane: near a unit Gaussian where the codec's statistics fit."""
        frames = self.validation[:self.cfg.loop.micro_batch or self.cfg.loop.batch_size, :self.codec.frames]
        latent = self.codec.encode(to_clip(frames.to(self.device)))
        return {f"latents/{name}": plane for name, plane in unpack(latent, self.codec.shape)._asdict().items()}

    def gathered(self) -> AbstractContextManager[None]:
        """In this block the first process can validate and sample, also where the weights are shards."""
        return self.ema.gathered()

    def as_model(self, step: int, net: LatentDenoiser | None = None) -> VideoDiffusion:
        return VideoDiffusion(DiffusionModel(net or self.net, self.codec, self.cfg.schedule, self.cfg.process, "", Path(), step,
                                             "ema"))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"kind": self.kind, "config": self.model_config, "net": self.net.state_dict(), "ema": self.ema.state_dict(),
                "ema_weights": self.ema.weights(), "optimizer": self.optimizer.state_dict(), "extra": {}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        checkpoint.check_config(self.model_config, with_defaults(state["config"]), "the checkpoint")
        checkpoint.load_strict(self.net, state["net"], "the checkpoint")
        self.ema.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])

    def export(self, step: int, folder: Path, which: str) -> None:
        """Write model_last.pth and ema_model_last.pth ("last"), or model_best.pth ("best"), autoencoder included."""
        write_models(folder, which, self.net, self.ema, {"kind": self.kind, "config": self.model_config, "step": step,
                                                         "extra": {"first_model": self.codec_payload}})
