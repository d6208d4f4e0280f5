"""One update of the latent diffusion: encode, choose what is known, add noise, predict."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoencoder.augment import augment
from autoencoder.border import at_frames
from autoencoder.codec import Codec
from autoencoder.fill import fill_missing
from latent_diffusion.condition import OFFSETS
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import AnyContext, LatentDenoiser
from latent_diffusion.gamma import shaped_noise
from latent_diffusion.masks import MASKS
from latent_diffusion.modelfile import DiffusionModel, with_defaults
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.process import add_noise, sample_losses, target
from latent_diffusion.schedule import training_level
from latent_diffusion.window_example import encode_window, lay_out, place_draws
from tools import checkpoint, dist
from tools.ema import Ema
from tools.modelfile import write_models
from tools.optim import apply_update, load_optimizer, make_optimizer
from tools.rng import batch_rand, batch_randn, rand
from tools.video import to_clip
from tools.writers import strip, write_mp4, write_png

MASK_ATTEMPTS = 16


class Example(NamedTuple):
    latent: Tensor        # b c n: of the whole true target clip; b s c n of a window of slots
    context: AnyContext   # what the condition sees around it
    keep: Tensor | None = None  # b s: slots that bear loss


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
    best = ("loss", "min")

    def __init__(self, cfg: DiffusionStageConfig, net: LatentDenoiser, codec: Codec, validation: Tensor,
                 model_config: dict[str, Any], codec_payload: dict[str, Any]):
        self.cfg, self.net, self.codec, self.validation = cfg, net, codec, validation
        self.model_config, self.codec_payload = model_config, codec_payload
        self.mask = MASKS.bind(cfg.mask)
        self.device = next(net.parameters()).device
        self.ddp = dist.wrap(net)
        self.optimizer = make_optimizer(net, cfg.optim)
        self.ema = Ema(net, cfg.ema)

    def train_step(self, step: int, micro_batches: list[dict[str, Tensor]], total: int) -> dict[str, Any]:
        """Make update number `step` from this process's share of a global batch of `total` windows."""
        shown = torch.zeros((), device=self.device)
        for i, batch in enumerate(micro_batches):
            example = self.prepare(batch["frames"], batch["index"])
            with dist.sync(self.ddp, i == len(micro_batches) - 1):
                loss = self.losses(self.ddp, example, batch["index"], "train").sum() / total
                (loss * dist.world()).backward()  # DDP averages over processes; ours is a sum
            shown += loss.detach() * dist.world()
        norm = apply_update(self.optimizer, self.net, self.cfg.optim, step, self.cfg.loop.steps, loss=shown)
        self.ema.update(self.net, step)
        return {"loss": shown, "gradient": norm}

    @torch.no_grad()
    def prepare(self, frames: Tensor, index: Tensor, stream: str = "train") -> Example:
        """Encode windows, and choose what of them is known.

        Args:
            frames: uint8 b t h w c.
            index: global sample indices b, on which (with the seed and the stream) all randomness depends.
        """
        clip = to_clip(frames.to(self.device))
        if stream == "train":
            clip = augment(clip, index, self.cfg.train.seed, flip=self.cfg.train.flip,
                           shift=self.cfg.train.shift)
        t, condition = self.codec.frames, self.net.condition
        if condition.observes:
            return self._window(clip, index, stream)
        context = condition.nothing(len(clip), self.device)
        if clip.shape[2] < condition.span * t:  # a window without neighbours: nothing is ever known
            return Example(self.codec.encode(clip), context)
        known = self.draw_masks(clip.shape[2], index, stream)  # b t, on the CPU: which rows to encode must not wait
        clip = self._place_unconditional(clip, known, index, stream)
        begin = condition.target * t
        for place, name in enumerate(condition.sees):
            span = slice(begin + OFFSETS[name] * t, begin + (OFFSETS[name] + 1) * t)
            context.known[:, place] = known[:, span].to(self.device)
            source = slice(None) if name == "self" else span  # of the frames that fill the missing ones
            rows = known[:, source].any(1).nonzero()[:, 0]    # clips of which nothing is known are not worth encoding
            if len(rows):
                some = rows.to(self.device)
                filled = fill_missing(clip[some, :, source], known[rows, source].to(self.device))
                context.latents[some, place] = self.codec.encode(filled[:, :, span] if name == "self" else filled)
        return Example(self.codec.encode(clip[:, :, begin:begin + t]), self._noise_history(context, index, stream))

    def _window(self, clip: Tensor, index: Tensor, stream: str) -> Example:
        """Clips of a stretch: those known as a whole are given, each other is a target."""
        condition, t, starts, masks = self.net.condition, self.codec.frames, [], []
        frames = min(clip.shape[2], condition.stretch)
        for i in index.tolist():
            draws = place_draws(self.cfg.train.seed, stream, i, frames)
            starts.append(condition.lay(frames, lambda draws=draws: next(draws)))
            masks.append(self._draw_mask(frames, [slice(start, start + t) for start in starts[-1]], i, stream))
        latent, context = encode_window(self.codec, clip, lay_out(condition, starts, masks))
        return Example(latent, self._noise_history(context, index, stream), context.targets)

    def _noise_history(self, context: AnyContext, index: Tensor, stream: str) -> AnyContext:
        """Make the context of some samples noisy while training; see HistoryNoiseConfig."""
        cfg, shape = self.cfg.train.history_noise, context.latents.shape[1:]
        if not cfg.sigma or stream != "train":
            return context
        u = batch_rand((1 + shape[0],), index, self.cfg.train.seed, stream, "history")
        level = torch.where(u[:, :1] < cfg.rate, cfg.sigma * u[:, 1:], 0.0).to(self.device)
        noise = batch_randn(shape, index, self.cfg.train.seed, stream, "history", "noise").to(self.device)
        return self.net.condition.noised(context, level, noise)

    def draw_masks(self, frames: int, index: Tensor, stream: str) -> Tensor:
        """Which frames of each window are known, never all of the target's: bool b t."""
        begin = self.net.condition.target * self.codec.frames
        own = slice(begin, begin + self.codec.frames)
        return torch.stack([self._draw_mask(frames, [own], i, stream) for i in index.tolist()])

    def _draw_mask(self, frames: int, own: list[slice], index: int, stream: str) -> Tensor:
        """Known frames, bool t; of these clips at least one is not known as a whole."""
        for attempt in range(MASK_ATTEMPTS):
            key = (self.cfg.train.seed, stream, "mask", index, *([attempt] if attempt else []))
            draws = iter(rand((4 * frames + 64,), *key).tolist())
            known = self.mask(frames, lambda draws=draws: next(draws))
            if not all(known[clip].all() for clip in own):
                return known
        known[own[-1]] = False  # a sampler that nearly always knows the target
        return known

    def _place_unconditional(self, clip: Tensor, known: Tensor, index: Tensor, stream: str) -> Tensor:
        """Where nothing is known any clip of the window can be the target, so that a video's first frames are, too."""
        room = clip.shape[2] - self.codec.frames
        moves = (batch_rand((), index, self.cfg.train.seed, stream, "place") * (room + 1)).long().clamp(max=room)
        begin = self.net.condition.target * self.codec.frames
        moves = torch.where(known.any(1), 0, moves - begin).to(self.device)
        frame = torch.arange(clip.shape[2], device=self.device)
        frame = (frame + moves[:, None]) % clip.shape[2]  # only the target's frames are looked at then
        return at_frames(clip, frame)

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
        size, losses = self.cfg.loop.micro_batch or self.cfg.loop.batch_size, []
        with self.ema.applied(self.net):
            self.net.eval()
            for i, frames in enumerate(self.validation.split(size)):
                index = torch.arange(len(frames)) + i * size
                losses.append(self.losses(self.net, self.prepare(frames, index, "validate"), index, "validate"))
            self.net.train()
        return {"loss": float(torch.cat(losses).double().mean())}

    def sample(self, step: int, folder: Path) -> None:
        """Write predictions beside the truth, and free generations: a strip of frames and a video."""
        t, condition = self.codec.frames, self.net.condition
        continues = "past" in condition.sees or condition.observes
        with self.ema.applied(self.net):
            model = self.as_model(step)
            self.net.eval()
            rows, known = [], None
            if continues and self.validation.shape[1] >= 2 * t:
                truth, known = self.validation[:2, :2 * t], torch.arange(2 * t) < t
                made = model.complete(truth, known.expand(len(truth), -1), steps=self.cfg.train.sample_steps)
                rows += [video.numpy() for pair in zip(truth, made) for video in pair]
            rows += list(model.generate(2, frames=2 * t if continues else t, steps=self.cfg.train.sample_steps).numpy())
            self.net.train()
        write_png(folder / f"step-{step:08d}.png", strip(rows))
        write_mp4(folder / f"step-{step:08d}.mp4", rows[-1])

    def as_model(self, step: int) -> VideoDiffusion:
        return VideoDiffusion(DiffusionModel(self.net, self.codec, self.cfg.schedule, self.cfg.process, "", Path(), step,
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
