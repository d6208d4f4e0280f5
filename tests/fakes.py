"""Models whose answers are known beforehand, and the tiny configurations."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.codec import Codec
from autoencoder.config import FirstStageConfig
from autoencoder.model import AutoencoderConfig, build_autoencoder
from configs.schema import FOLDER, load_config
from latent_diffusion.completion import Completion
from latent_diffusion.condition import Concat, Context
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.modelfile import DiffusionModel, model_config
from latent_diffusion.process import ProcessConfig
from latent_diffusion.schedule import ScheduleConfig
from latent_diffusion.stage import DiffusionStage
from latent_diffusion.train import codec_payload
from tools.rng import fork, numpy_rng


class PixelNet(nn.Module):
    """An autoencoder that loses nothing: the latent's first positions are the pixels themselves."""

    def __init__(self, frames: int = 4, size: tuple[int, int] = (2, 2), *, tanh: bool = False):
        super().__init__()
        self.config = AutoencoderConfig(frames=frames, resolution=list(size), patch=1, in_channels=1, latent_channels=1,
                                        tanh=tanh)
        self.shape = self.config.grid
        self.encoded, self.decoded = 0, 0  # calls
        assert frames * size[0] * size[1] <= self.shape.total, "planes of so large a grid are smaller than the clip"

    def encode(self, clip: Tensor) -> Tensor:
        self.encoded += 1
        latent = clip.new_zeros(len(clip), 1, self.shape.total)
        latent[:, 0, :clip[0].numel()] = clip.flatten(1)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        self.decoded += 1
        sizes = self.config.clip_shape
        return latent[:, 0, :torch.Size(sizes).numel()].reshape(-1, *sizes)


def first_config(name: str = "tiny.yaml", *overrides: str) -> FirstStageConfig:
    return load_config(FirstStageConfig, FOLDER / "autoencoder" / name, {"data.name": "SHAPES"},
                       ["data.options.size=16", "data.options.count=4", "data.workers=0", *overrides])


def diffusion_config(*overrides: str) -> DiffusionStageConfig:
    """tiny.yaml, but that it looks at the clip before only."""
    past = {"condition.sees": ["past"], "condition.residual": False, "mask.name": "pvdm", "mask.rate": 0.7,
            "process.parametrisation": "v"}
    return load_config(DiffusionStageConfig, FOLDER / "latent-diffusion" / "tiny.yaml", {"data.name": "SHAPES"} | past,
                       ["data.options.size=16", "data.options.count=4", "data.workers=0", *overrides])


def autoencoder(cfg: FirstStageConfig, seed: int = 0) -> nn.Module:
    with fork(seed, "init"):
        return build_autoencoder(cfg.model)


def autoencoder_payload(net: nn.Module, **extra) -> dict:
    """What a model file of this net holds."""
    stats = {"latent_mean": torch.zeros(3, net.config.latent_channels), "latent_std": torch.ones(3, net.config.latent_channels)}
    return {"kind": "autoencoder", "config": asdict(net.config), "state": net.state_dict(), "step": 7, "weights": "ema",
            "extra": stats | extra}


def video(batch: int, frames: int, size: tuple[int, int] = (16, 16), channels: int = 3, seed: int = 0) -> Tensor:
    """Random smooth uint8 b t h w c: neighbouring frames are alike."""
    rng = numpy_rng(seed, "video")
    walk = rng.normal(0, 12, (batch, frames, *size, channels)).cumsum(1) + rng.uniform(60, 190, (batch, 1, 1, 1, 1))
    return torch.from_numpy(walk.clip(0, 255).astype("uint8"))


def micro(frames: Tensor, index: Tensor, size: int) -> list[dict[str, Tensor]]:
    """One step's batch as the loader cuts it."""
    return [{"frames": f, "index": i} for f, i in zip(frames.split(size), index.split(size))]


class NextNet(nn.Module):
    """A denoiser whose clean estimate is known: the clip before plus `step`, `start` where nothing is known, plus a
    share of its noisy input. It remembers the contexts and labels that it was called with."""

    def __init__(self, *, start: float = 0.0, step: float = 0.0, noise: float = 0.0, sees: tuple[str, ...] = ("past",)):
        super().__init__()
        self.start, self.step, self.noise = start, step, noise
        self.sees = sees
        self.calls: list[tuple[float, Context | None]] = []

    def prepare(self, context: Context | None, like: Tensor, keep: bool = False) -> Context | None:
        return context

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        self.calls.append((float(t[0]), context))
        clean = torch.full_like(x, self.start) if context is None else context.latents[:, 0] + self.step
        return clean + self.noise * x


class NearNet(NextNet):
    """A denoiser whose clean estimate is what is observed of the clip itself, and `start` where nothing is known."""

    def __init__(self, *, start: float = 0.0):
        super().__init__(start=start, sees=("past", "self", "future"))

    def forward(self, x: Tensor, t: Tensor, context: Context | None = None) -> Tensor:
        self.calls.append((float(t[0]), context))
        return torch.full_like(x, self.start) if context is None else context.latents[:, 1]


def given(frames: int, *known: int) -> Tensor:
    """The mask of a video of which these frames are known."""
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[list(known)] = True
    return mask


def order(work: Completion) -> list[int]:
    """The slots of a completion as they are made."""
    return [job.slot for job in work.jobs]


def fake_model(net: nn.Module, codec: Codec | None = None, schedule: ScheduleConfig | None = None) -> DiffusionModel:
    """A model whose network predicts x0."""
    codec = codec or Codec(PixelNet())
    net.condition = Concat(codec.shape, codec.channels, codec.frames, sees=net.sees, mask=len(net.sees) > 1,
                           history=getattr(net, "history", False))
    return DiffusionModel(net, codec, schedule or ScheduleConfig(name="cosine"),
                          ProcessConfig(parametrisation="x0"), "hash", Path("model.pth"), 7, "ema")


def diffusion_stage(cfg: DiffusionStageConfig, codec: Codec | None = None, validation: Tensor | None = None) -> DiffusionStage:
    """A small network on the latents of a codec; by default the pixels themselves."""
    codec = codec or Codec(PixelNet())
    with fork(0, "init"):
        net = LatentDenoiser(cfg.unet, cfg.condition, codec.shape, codec.channels, codec.frames)
    if validation is None:
        validation = video(4, net.condition.span * codec.frames, codec.size, codec.config.in_channels, seed=9)
    return DiffusionStage(cfg, net, codec, validation, model_config(cfg, codec), codec_payload(codec))
