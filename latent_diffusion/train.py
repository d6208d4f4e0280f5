"""Runs the second stage: codec, data, stage and loop, from a configuration."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoencoder.codec import Codec
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.example import window_frames
from latent_diffusion.latent_cache import LatentCache
from latent_diffusion.modelfile import FIRST_MODEL, load_net, model_config
from latent_diffusion.stage import DiffusionStage
from tools import checkpoint, dist
from tools.feed import open_feed
from tools.log import Run
from tools.loop import not_begun, train
from tools.rng import fork


def fit_data(cfg: DiffusionStageConfig, codec: Codec) -> DiffusionStageConfig:
    """Clips are what the autoencoder encodes: its frames, size and channels replace those of the configuration."""
    return replace(cfg, data=replace(cfg.data, frames=codec.frames, resolution=list(codec.size),
                                     channels=codec.config.in_channels))


def train_diffusion(cfg: DiffusionStageConfig, run: Run, codec: Codec, *, resume: str | None = None,
                    init_from: str | None = None, latents: LatentCache | None = None) -> None:
    """Train the latent diffusion on the latents of a frozen autoencoder.

    Args:
        cfg: settings, whose clips are those of the autoencoder (see fit_data).
        run: the claimed run folder.
        codec: the autoencoder, ours or PVDM's.
        resume: checkpoint file to continue from.
        init_from: diffusion model whose weights a new run starts from.
        latents: what `--exp encode` made of the training videos; without it the encoder runs in every step.
    """
    codec = codec.to(dist.device())
    config = model_config(cfg, codec)
    with fork(cfg.train.seed, "init"):
        net = LatentDenoiser(cfg.unet, cfg.condition, codec.shape, codec.channels, codec.frames).to(dist.device())
    if init_from and not_begun(run):
        checkpoint.load_strict(net, load_net(init_from).state_dict(), init_from)
    feed = open_feed(cfg.data, cfg.loop, frames=window_frames(net.condition, cfg.mask), seed=cfg.train.seed,
                     validation_clips=cfg.train.validation_clips, shortest=1 if codec.frames == 1 else None, log=run.log)
    for note in feed.notes:
        run.log(note)
    batches = latents.batches(cfg) if latents else feed.batches
    if latents:
        run.log(latents.describe())
    payload = codec_payload(codec)
    if run.folder is not None:
        checkpoint.save(run.folder / FIRST_MODEL, payload)
    stage = DiffusionStage(cfg, net, codec, feed.validation, config, payload)
    parameters = sum(p.numel() for p in net.parameters())
    run.log(f"U-Net: {parameters / 1e6:.2f} M parameters on latents {codec.channels} x {codec.shape.total} "
            f"of the autoencoder {codec.weights_hash}")
    train(stage, batches, run, cfg.loop, seed=cfg.train.seed, resume=Path(resume) if resume else None)


def codec_payload(codec: Codec) -> dict[str, Any]:
    """The autoencoder as a model file, which every model file of the diffusion carries."""
    shape = codec.shape
    ends = [n - 1 for n in (shape.sizes[0], sum(shape.sizes[:2]), shape.total)]  # one position of each plane
    return {"kind": "autoencoder", "config": asdict(codec.config), "state": codec.net.state_dict(), "step": 0,
            "weights": "ema", "extra": {"latent_mean": codec.mean[:, ends].T.contiguous().cpu(),
                                        "latent_std": codec.std[:, ends].T.contiguous().cpu()}}
