"""The parts of `--exp bench`: what each of them builds, and runs again and again. Weights are untrained: they take as long."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoencoder.codec import Codec
from autoencoder.config import FirstStageConfig
from autoencoder.flops import published_flops
from autoencoder.model import build_autoencoder
from autoencoder.stage import AutoencoderStage
from evals import bench_evals
from latent_diffusion import bench_context, bench_latents, bench_long, bench_samplers
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.modelfile import DiffusionModel, model_config
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.stage import DiffusionStage
from tools import bench_data, dist
from tools.memory import peak_bytes
from tools.rng import fork, randn
from tools.shapes import Shapes
from tools.speed import count_flops, measure
from tools.writers import write_mp4

SAMPLE_STEPS = 4
TRAINING_PASSES = 3  # a backward pass is worth two forward ones; what is computed again does not count


class Settings(NamedTuple):
    """What is measured."""
    first: FirstStageConfig
    second: DiffusionStageConfig
    data_path: str | None = None  # whose video files are read; None = generated ones
    repeats: int = 3
    long: tuple[FirstStageConfig, DiffusionStageConfig] | None = None  # what makes long videos; None = first and second
    model: str | None = None      # a trained model, on which samplers are compared
    clips: int = 1                # that the U-Net takes at once


def encode(settings: Settings) -> dict[str, Any]:
    codec = make_codec(settings.first)
    clip = drawn((1, *codec.config.clip_shape), codec.device)
    return _timed(lambda: codec.encode(clip), settings, gflop=_codec_gflop(codec)[0])


def decode(settings: Settings) -> dict[str, Any]:
    codec = make_codec(settings.first)
    latent = drawn((1, codec.channels, codec.shape.total), codec.device)
    return _timed(lambda: codec.decode(latent), settings, gflop=_codec_gflop(codec)[1])


def unet(settings: Settings) -> dict[str, Any]:
    net = make_net(settings).eval().requires_grad_(False)
    call = _forward(net, settings.clips)
    return _timed(call, settings, gflop=count_flops(call)[0] / 1e9)


def train_autoencoder(settings: Settings) -> dict[str, Any]:
    """Updates with the pixel loss alone: the critics and the perceptual network are not the model."""
    first = settings.first
    cfg = replace(first, loss=replace(first.loss, perceptual_weight=0.0, adversarial_weight=0.0))
    net = _autoencoder(cfg)
    gflop = TRAINING_PASSES * sum(_codec_gflop(Codec(net)))
    net.train().requires_grad_(True)
    t, h, w, c = cfg.model.frames, *cfg.model.size, cfg.model.in_channels
    frames = (drawn((1, t, h, w, c)) * 50 + 128).clamp(0, 255).byte()
    stage = AutoencoderStage(cfg, net, frames, {})
    batch = [{"frames": frames, "index": torch.zeros(1, dtype=torch.long)}]
    return _timed(lambda: stage.train_step(cfg.loss.critic_warmup, batch, 1), settings, gflop=gflop)


def train_unet(settings: Settings) -> dict[str, Any]:
    """Updates from latents that were encoded beforehand."""
    codec, net = make_codec(settings.first), make_net(settings)
    with torch.no_grad():
        gflop = TRAINING_PASSES * count_flops(_forward(net, settings.clips))[0] / 1e9
    blank = torch.zeros(1, codec.frames, *codec.size, codec.config.in_channels, dtype=torch.uint8)
    stage = DiffusionStage(settings.second, net, codec, blank, model_config(settings.second, codec), {})
    batch = {**_latents(net, settings.clips), "index": torch.arange(settings.clips)}
    return _timed(lambda: stage.train_step(0, [batch], settings.clips), settings, gflop=gflop)


def sample(settings: Settings) -> dict[str, Any]:
    """A generated clip, by few evaluations of the network and one decoding."""
    model = make_model(settings)
    gflop = SAMPLE_STEPS * count_flops(_forward(model.model.net))[0] / 1e9 + _codec_gflop(model.model.codec)[1]
    return {**_timed(lambda: model.generate(1, steps=SAMPLE_STEPS), settings, gflop=gflop), "steps": SAMPLE_STEPS}


def context(settings: Settings) -> dict[str, Any]:
    codec = make_codec(settings.first)
    return {**bench_context.measure(settings.second.unet, codec.shape, codec.channels, codec.frames, device=codec.device,
                                    repeats=settings.repeats), "peak_mb": peak_bytes() / 1e6}


def data(settings: Settings) -> dict[str, Any]:
    size = min(settings.first.model.size)
    with tempfile.TemporaryDirectory() as folder:
        if settings.data_path is None:
            source = Shapes(count=2, length=64, size=max(size, 16))
            for i in range(2):
                write_mp4(Path(folder) / f"{i}.mp4", source.read(i, 0, 64))
        return bench_data.measure(settings.data_path or folder, frames=settings.first.model.frames, size=size, packed=True,
                                  entries=100_000 if settings.data_path else 0)


def evals(settings: Settings) -> dict[str, Any]:
    return bench_evals.measure(repeats=settings.repeats)


def latents(settings: Settings) -> dict[str, Any]:
    """Few steps on few windows: the encoder's time does not depend on what is in a clip."""
    cfg = settings.second
    few = {"options": {**cfg.data.options, "count": 4}} if cfg.data.name == "SHAPES" else {}
    cfg = replace(cfg, data=replace(cfg.data, workers=0, **few), loop=replace(cfg.loop, batch_size=1, micro_batch=None))
    return bench_latents.measure(cfg, make_codec(settings.first), steps=settings.repeats, warmup=1, windows_per_video=1,
                                 draws=1)


def long_video(settings: Settings) -> dict[str, Any]:
    """Videos of several lengths; see bench_long.py."""
    first, second = settings.long or (settings.first, settings.second)
    return bench_long.measure(make_model(settings._replace(first=first, second=second)))


def samplers(settings: Settings) -> dict[str, Any]:
    """How near samplers come to the end of the ODE; see bench_samplers.py."""
    return bench_samplers.measure(model=settings.model, data=settings.second.data.name, data_path=settings.data_path)


PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    part.__name__: part for part in (encode, decode, unet, train_autoencoder, train_unet, sample, context, data, evals,
                                     latents, long_video, samplers)}


def make_model(settings: Settings) -> VideoDiffusion:
    codec, net, cfg = make_codec(settings.first), make_net(settings).eval().requires_grad_(False), settings.second
    return VideoDiffusion(DiffusionModel(net, codec, cfg.schedule, cfg.process, "", Path(), 0, "raw"))


def make_codec(cfg: FirstStageConfig) -> Codec:
    return Codec(_autoencoder(cfg)).to(dist.device())


def _autoencoder(cfg: FirstStageConfig) -> torch.nn.Module:
    with fork(0, "init"):
        return build_autoencoder(cfg.model).to(dist.device())


def make_net(settings: Settings) -> LatentDenoiser:
    with torch.device("meta"):
        shape = build_autoencoder(settings.first.model).shape
    model, second = settings.first.model, settings.second
    with fork(0, "init"):
        return LatentDenoiser(second.unet, second.condition, shape, model.latent_channels, model.frames).to(dist.device())


def drawn(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    return randn(shape, 0, "bench").to(device)


def _codec_gflop(codec: Codec) -> tuple[float, float]:
    """Of encoding and decoding: as published where there is a publication, else what is computed."""
    if codec.config.arch == "pvdm":
        return tuple(flops / 1e9 for flops in published_flops(codec.config, **codec.config.options))
    clip = drawn((1, *codec.config.clip_shape), codec.device)
    encoding, latent = count_flops(lambda: codec.encode(clip))
    return encoding / 1e9, count_flops(lambda: codec.decode(latent))[0] / 1e9


def _latents(net: LatentDenoiser, clips: int) -> dict[str, Tensor]:
    """A training batch of windows of which nothing is known (see example.from_latents)."""
    nothing = net.condition.nothing(clips, torch.device("cpu"))
    slots = nothing.latents.shape[1:2] if net.condition.observes else ()
    batch = {"latent": drawn((clips, *slots, net.channels, net.shape.total)), "seen": nothing.latents, "known": nothing.known}
    return batch | {name: getattr(nothing, name) for name in ("start", "there") if net.condition.observes}


def _forward(net: LatentDenoiser, clips: int = 1) -> Callable[[], Tensor]:
    device = next(net.parameters()).device
    z, t = _latents(net, clips)["latent"].to(device), torch.full((clips,), 500.0, device=device)

    @torch.no_grad()
    def call() -> Tensor:
        return net(z, t)
    return call


def _timed(call: Callable[[], Any], settings: Settings, *, gflop: float) -> Mapping[str, Any]:
    call()
    result = measure(call, gflop, dist.device(), settings.repeats)
    return {**result, "peak_mb": peak_bytes() / 1e6}
