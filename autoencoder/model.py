"""The triplane autoencoder: clip (b c t h w, in [-1, 1]) <-> raw latent (b c n)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from autoencoder.blocks import Pool, SpaceTimeTransformer
from autoencoder.planes import PLANES, Planes, PlaneShape, pack, unpack
from tools.registry import Registry

ARCHITECTURES = Registry("autoencoder architecture")  # classes: cls(config, *, options)


@dataclass(frozen=True)
class AutoencoderConfig:
    """What an autoencoder is; the defaults are PVDM's published size.

    The fields serve every architecture; what only one of them reads goes into `options`.
    """

    arch: str = "pvdm"
    channels: int = 384       # width of the trunk
    frames: int = 16          # frames of a clip; 1 makes an image autoencoder
    resolution: Any = 256     # pixels: one number for a square, or [h, w]
    patch: int = 8            # pixels of a token's side
    latent_channels: int = 4
    in_channels: int = 3
    depth: int = 8            # layers of the encoder, and of the decoder
    heads: int = 8
    head_dim: int = 64
    tanh: bool = True         # latents in (-1, 1)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("channels", "frames", "patch", "latent_channels", "in_channels", "depth", "heads",
                     "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"autoencoder {name} must be at least 1, got {getattr(self, name)}")
        if any(side < self.patch or side % self.patch for side in self.size):
            below = [max(side // self.patch, 1) * self.patch for side in self.size]
            above = [-(-side // self.patch) * self.patch for side in self.size]
            raise ValueError(f"resolution {_show(self.size)} is not a multiple of patch {self.patch}; "
                             f"the nearest that work: {_show(below)}, {_show(above)}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        given = self.resolution
        sides = tuple(given) if isinstance(given, Sequence) else (given, given)
        if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            raise ValueError(f"resolution must be a whole number or [height, width], got {given!r}")
        return sides

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """One clip without the batch axis: c t h w."""
        return self.in_channels, self.frames, *self.size

    @property
    def grid(self) -> PlaneShape:
        """One token for each patch of each frame."""
        return PlaneShape(self.frames, *(side // self.patch for side in self.size))


class Reconstruction(NamedTuple):
    """What one pass through an autoencoder gives."""

    clip: Tensor    # b c t h w
    latent: Tensor  # b c n, raw and without the noise


def build_autoencoder(config: AutoencoderConfig) -> nn.Module:
    """Make an untrained autoencoder: .encode, .decode, .shape and .config.

    Raises:
        ValueError: an unknown architecture or option, or sizes that the architecture cannot have.
    """
    return ARCHITECTURES.bind({"name": config.arch, **config.options})(config)


def check_clip(clip: Tensor, config: AutoencoderConfig) -> None:
    """Refuse a clip that the autoencoder was not made for."""
    if clip.ndim != 5 or tuple(clip.shape[1:]) != config.clip_shape:
        raise ValueError(f"this autoencoder takes clips b c t h w with c t h w = {_show(config.clip_shape)}, "
                         f"got {_show(clip.shape)}; cut and resize the video to that, or set data.frames and data.resolution")


@ARCHITECTURES.register("pvdm")
class TriplaneAutoencoder(nn.Module):
    """The autoencoder of PVDM (CVPR 2023): space-time transformers around three pooled planes.

    Args:
        config: sizes.
        projection_depth, projection_heads, projection_mlp: layers, heads and hidden width of the small
            transformers that pool one axis away.
        released: compute what PVDM's released weights were trained with: each plane is read at the first
            token instead of the learned query, and the frame rotary gives a pair two angles. The parameters
            are the same either way.
    """

    def __init__(self, config: AutoencoderConfig, *, projection_depth: int = 4, projection_heads: int = 4,
                 projection_mlp: int = 512, released: bool = False):
        super().__init__()
        _check_heads(config, projection_depth, projection_heads, projection_mlp)
        self.config = config
        self.shape = shape = config.grid
        dim, patch = config.channels, config.patch

        def trunk() -> SpaceTimeTransformer:
            return SpaceTimeTransformer(shape, dim, depth=config.depth, heads=config.heads,
                                        head_dim=config.head_dim, paired=not released)

        def pool(length: int) -> Pool:
            return Pool(length, dim, depth=projection_depth, heads=projection_heads, hidden=projection_mlp,
                        read=0 if released else -1)

        self.embed = nn.Linear(config.in_channels * patch**2, dim)
        self.encoder = trunk()
        self.pools = nn.ModuleDict({"hw": pool(shape.t), "tw": pool(shape.h), "th": pool(shape.w)})
        self.to_latent = nn.ModuleDict({name: nn.Linear(dim, config.latent_channels) for name in PLANES})
        self.from_latent = nn.ModuleDict({name: nn.Linear(config.latent_channels, dim) for name in PLANES})
        self.decoder = trunk()
        self.to_pixels = nn.ConvTranspose2d(dim, config.in_channels, patch, stride=patch)

    @property
    def grad_checkpoint(self) -> bool:
        """True keeps for the backward pass only what each part of a layer is given, and what attention made: less memory,
        about a third more time."""
        return self.encoder.grad_checkpoint

    @grad_checkpoint.setter
    def grad_checkpoint(self, on: bool) -> None:
        for module in (self.encoder, self.decoder, *self.pools.values()):
            module.grad_checkpoint = on

    @property
    def last_weight(self) -> Tensor:
        """Weight of the last layer, where an adaptive adversarial weight compares gradients."""
        return self.to_pixels.weight

    def encode(self, clip: Tensor) -> Tensor:
        """Clip (b c t h w, in [-1, 1]) -> raw latent (b c n), in (-1, 1) where config.tanh."""
        check_clip(clip, self.config)
        p = self.config.patch
        x = self.embed(rearrange(clip, "b c t (h p) (w q) -> b t h w (p q c)", p=p, q=p))
        # to(): under autocast the residual stream stays in the precision of the weights
        return pack(self.project(self.encoder(x.to(self.embed.weight.dtype))))

    def project(self, volume: Tensor) -> Planes:
        """Pool each axis of a token volume (b t h w c) away in turn."""
        b, t, h, _, _ = volume.shape
        hw = self.pools["hw"](rearrange(volume, "b t h w c -> (b h w) t c"))
        tw = self.pools["tw"](rearrange(volume, "b t h w c -> (b t w) h c"))
        th = self.pools["th"](rearrange(volume, "b t h w c -> (b t h) w c"))
        with torch.autocast(volume.device.type, enabled=False):
            hw, tw, th = (self.to_latent[name](plane) for name, plane in zip(PLANES, (hw, tw, th)))
        planes = (rearrange(hw, "(b h w) c -> b c h w", b=b, h=h),
                  rearrange(tw, "(b t w) c -> b c t w", b=b, t=t),
                  rearrange(th, "(b t h) c -> b c t h", b=b, t=t))
        return Planes(*(plane.tanh() for plane in planes)) if self.config.tanh else Planes(*planes)

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (b c n) -> clip (b c t h w, in [-1, 1])."""
        volume = self.decoder(self.spread(unpack(latent, self.shape)))
        with torch.autocast(volume.device.type, enabled=False):  # bfloat16 steps are wider than a grey level
            # the transposed convolution by patches that do not overlap is a matrix product, six times as fast as one on a CPU
            to, p = self.to_pixels, self.config.patch
            pixels = F.linear(volume, to.weight.flatten(1).T, to.bias.repeat_interleave(p**2))
        return rearrange(torch.tanh(pixels / 2), "b t h w (c p q) -> b c t (h p) (w q)", p=p, q=p)

    def spread(self, planes: Planes) -> Tensor:
        """Sum of the planes, each copied along the axis it lacks: token volume (b t h w c)."""
        with torch.autocast(planes.hw.device.type, enabled=False):
            hw, tw, th = (self.from_latent[name](plane.movedim(1, -1)) for name, plane in zip(PLANES, planes))
        return hw[:, None] + tw[:, :, None] + th[:, :, :, None]

    def forward(self, clip: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode and decode (the pass that is trained); noise (b c n) is added to the latent in between."""
        latent = self.encode(clip)
        return Reconstruction(self.decode(latent if noise is None else latent + noise), latent)


def _check_heads(config: AutoencoderConfig, depth: int, heads: int, mlp: int) -> None:
    if config.head_dim % 4:
        raise ValueError(f"head_dim must be a multiple of 4 for rotary positions over rows and columns, "
                         f"got {config.head_dim}")
    if min(depth, heads, mlp) < 1:
        raise ValueError(f"projection_depth, projection_heads and projection_mlp must be at least 1, "
                         f"got {depth}, {heads} and {mlp}")
    if config.channels % (2 * heads):
        step = 2 * heads
        raise ValueError(f"channels {config.channels} cannot be split over projection_heads {heads}; "
                         f"use a multiple of {step} such as {-(-config.channels // step) * step}")


def _show(sizes) -> str:
    return "x".join(str(size) for size in sizes)
