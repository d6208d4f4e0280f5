"""A frozen autoencoder as a map between clips and normalised latents, the only owner of their mean and deviation."""

from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from autoencoder.border import paste_known
from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.planes import PlaneShape
from autoencoder.pvdm import is_pvdm_autoencoder, read_pvdm_autoencoder
from tools import checkpoint
from tools.modelfile import ModelFile, read_model
from tools.video import to_clip


class LatentStats(NamedTuple):
    """Mean and standard deviation of raw latents, for each plane (hw, tw, th) and channel."""
    mean: Tensor  # 3 c
    std: Tensor   # 3 c

    @classmethod
    def identity(cls, channels: int) -> "LatentStats":
        return cls(torch.zeros(3, channels), torch.ones(3, channels))


def per_position(values: Tensor, shape: PlaneShape) -> Tensor:
    """Spread one value for each plane and channel (3 c) over the packed latent (c n)."""
    return torch.cat([repeat(v, "c -> c n", n=n) for v, n in zip(values, shape.sizes)], dim=-1)


class Codec(nn.Module):
    """Clips b c t h w in [-1, 1] <-> normalised latents b c n, by an autoencoder that no longer learns.

    Args:
        net: an autoencoder of `autoencoder.model`.
        stats: measured on training data; identity for PVDM's released weights, which were never normalised.
        weights_hash: short hash of the weights, kept in what is made with them.
    """

    def __init__(self, net: nn.Module, stats: LatentStats | None = None, weights_hash: str = ""):
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.weights_hash = weights_hash
        stats = stats or LatentStats.identity(self.channels)
        self.register_buffer("mean", per_position(stats.mean.float(), self.shape), persistent=False)
        self.register_buffer("std", per_position(stats.std.float(), self.shape), persistent=False)

    @property
    def config(self) -> AutoencoderConfig:
        return self.net.config

    @property
    def shape(self) -> PlaneShape:
        return self.net.shape

    @property
    def channels(self) -> int:
        return self.config.latent_channels

    @property
    def frames(self) -> int:
        return self.config.frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self.config.size

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def limits(self) -> tuple[Tensor, Tensor] | None:
        """Bounds of normalised latents (c n each) where the encoder ends in tanh, else None: no clamping."""
        if not self.config.tanh:
            return None
        return (-1 - self.mean) / self.std, (1 - self.mean) / self.std

    @torch.no_grad()
    def encode(self, clip: Tensor) -> Tensor:
        """Map clips (b c t h w, [-1, 1]) to normalised latents (b c n)."""
        return (self.net.encode(clip) - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latent: Tensor, frames: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Map normalised latents to clips, exact where pixels are given.

        Args:
            latent: b c n, or b s c n for s clips that follow each other.
            frames: uint8 b t h w c (t over all s clips); what lies at unknown frames is not looked at.
            known: bool b t. Made frames near known ones get the detail that the codec loses (see border.py).

        Returns:
            b c t h w in [-1, 1].
        """
        single = latent.dim() == 3
        stretch = latent[:, None] if single else latent
        raw = rearrange(stretch, "b s c n -> (b s) c n") * self.std + self.mean
        clip = rearrange(self.net.decode(raw), "(b s) c t h w -> b c (s t) h w", s=stretch.shape[1])
        if frames is None:
            return clip
        if known is None:
            raise ValueError("decode got frames but no known; give known= (bool b t) that says which of them are given")
        want = (len(clip), clip.shape[2], *clip.shape[3:], clip.shape[1])
        if tuple(frames.shape) != want or tuple(known.shape) != want[:2]:
            raise ValueError(f"decode needs frames b t h w c = {want} and known b t, got {tuple(frames.shape)} and "
                             f"{tuple(known.shape)}")
        return paste_known(clip, to_clip(frames).to(clip), known.to(clip.device))


def read_codec(file: ModelFile) -> Codec:
    """Build the codec that a model file holds: ours, or a released PVDM state dict."""
    if file.kind == "foreign":
        if not is_pvdm_autoencoder(file.state):
            raise ValueError(f"{file.path} is neither an autoencoder of this project nor PVDM's; "
                             "look at it with --exp info --model " + str(file.path))
        net = read_pvdm_autoencoder(file.state)
        return Codec(net, weights_hash=checkpoint.state_hash(net.state_dict()))
    if file.kind != "autoencoder":
        raise ValueError(f"{file.path} is a model of kind {file.kind}, not an autoencoder; give the first stage's run or file")
    net = build_autoencoder(AutoencoderConfig(**file.config))
    checkpoint.load_strict(net, file.state, str(file.path))
    stats = LatentStats(file.extra["latent_mean"], file.extra["latent_std"])
    return Codec(net, stats, checkpoint.state_hash(file.state))


def load_autoencoder(path: str | Path, weights: str = "ema") -> Codec:
    """Load an autoencoder from a run folder, a model file, a step checkpoint, or PVDM's released weights.

    Returns:
        A frozen Codec: `encode(clip) -> latent`, `decode(latent) -> clip`.
    """
    return read_codec(read_model(path, weights))
