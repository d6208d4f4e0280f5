"""A compact triplane autoencoder: convolutions in space and time around attention among the planes.

Nearly all of its work is dense convolution over frames in channels-last order, which a CPU does at close to its
matrix speed; what is global happens on the planes, which are few tokens. Every layer that sees tokens has a learned
position, so a fixed camera's scene need not pass through the latent.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoencoder.model import ARCHITECTURES, AutoencoderConfig, Reconstruction, check_clip
from autoencoder.planes import PLANES, Planes, PlaneShape, pack, unpack

BRANCH_SCALE = 0.3  # of the last weight of a residual branch at the start, in PyTorch's default


class PlanePath(nn.Module):
    """What autoencoders with pooled planes have in common: token volume -> planes -> latent -> planes -> token volume.

    A subclass has `encode`, `decode`, the last layer `to_pixels`, and calls `_make_planes` where it makes its layers.
    """

    def __init__(self, config: AutoencoderConfig, shape: PlaneShape):
        super().__init__()
        self.config, self.shape = config, shape
        self.grad_checkpoint = False

    def _make_planes(self, plane_depth: int, linear: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        """Layers between the volumes; `linear` makes those to and from the latent, which see tokens of all planes (b n c)."""
        config, dim = self.config, self.config.channels

        def attention() -> nn.ModuleList:
            return nn.ModuleList(PlaneAttention(dim, config.heads, config.head_dim) for _ in range(plane_depth))

        self.pools = nn.ModuleDict({name: AxisPool(dim, config.heads) for name in PLANES})
        self.encoder_token = nn.Parameter(0.02 * torch.randn(self.shape.total, dim))
        self.encoder_attention = attention()
        self.to_latent = nn.Sequential(nn.LayerNorm(dim), linear(dim, config.latent_channels))

        self.from_latent = linear(config.latent_channels, dim)
        self.decoder_token = nn.Parameter(0.02 * torch.randn(self.shape.total, dim))
        self.decoder_attention = attention()
        self.add = nn.ModuleDict({name: nn.Linear(dim, dim) for name in PLANES})
        self.multiply = nn.ModuleDict({name: nn.Linear(dim, dim) for name in PLANES})

    @property
    def last_weight(self) -> Tensor:
        """Weight of the last layer, where an adaptive adversarial weight compares gradients."""
        return self.to_pixels.weight

    def latent_of(self, volume: Tensor, gain: float = 1.0) -> Tensor:
        """Token volume (b t h w c) -> raw latent (b c n); the tokens' learned positions count `gain` times."""
        tokens = self._run(self.encoder_attention, self.project(volume) + gain * self.encoder_token)
        latent = self._wide(self.to_latent, tokens).transpose(1, 2)
        return latent.tanh() if self.config.tanh else latent

    def volume_of(self, latent: Tensor, gain: float = 1.0) -> Tensor:
        """The way back: raw latent (b c n) -> token volume (b t h w c)."""
        unpack(latent, self.shape)  # refuses a latent of another size
        tokens = self.from_latent(latent.transpose(1, 2)) + gain * self.decoder_token
        return self.spread(self._run(self.decoder_attention, tokens))

    def project(self, volume: Tensor) -> Tensor:
        """Pool each axis of a token volume (b t h w c) away in turn: tokens of the packed planes (b n c)."""
        planes = Planes(self.pools["hw"](volume, 1), self.pools["tw"](volume, 2), self.pools["th"](volume, 3))
        return pack(Planes(*(plane.movedim(-1, 1) for plane in planes))).transpose(1, 2)

    def spread(self, tokens: Tensor) -> Tensor:
        """Tokens of the packed planes (b n c) -> volume (b t h w c): each copied along the axis it lacks."""
        planes = [plane.movedim(1, -1) for plane in unpack(tokens.transpose(1, 2), self.shape)]

        def volumes(maps: nn.ModuleDict) -> tuple[Tensor, Tensor, Tensor]:
            hw, tw, th = (maps[name](plane) for name, plane in zip(PLANES, planes))
            return hw[:, None], tw[:, :, None], th[:, :, :, None]

        hw, tw, th = volumes(self.multiply)
        return sum(volumes(self.add)) + hw * (tw * th)

    def forward(self, clip: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode and decode (the pass that is trained); noise (b c n) is added to the latent in between."""
        latent = self.encode(clip)
        return Reconstruction(self.decode(latent if noise is None else latent + noise), latent)

    def _wide(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The last layer of either half, in the precision of the weights: autocast would round pixels to 1/256."""
        with torch.autocast(x.device.type, enabled=False):
            return layer(x.to(self.to_pixels.weight.dtype))

    def _run(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            save = self.grad_checkpoint and torch.is_grad_enabled()
            x = checkpoint(layer, x, use_reentrant=False) if save else layer(x)
        return x


@ARCHITECTURES.register("compact")
class CompactAutoencoder(PlanePath):
    """Convolutions on two grids, learned pooling to three planes, attention among the planes' tokens.

    Encoder: pixels -> fine grid (half a patch a token) -> token grid -> planes -> latent. The decoder mirrors it; there
    the planes meet both as a sum and as a product, which for a moving thing is "this row and this column". Of the
    configuration, `depth` counts the decoder's blocks on the token grid (the encoder has half as many), and `heads` and
    `head_dim` are those of the attention.

    Args:
        config: sizes; `patch` must be even.
        fine_channels: width on the fine grid.
        fine_depth: blocks on the fine grid of the decoder (the encoder has half as many).
        plane_depth: attention layers among the planes, on either side of the latent.
        time_patch: frames of one token.
    """

    def __init__(self, config: AutoencoderConfig, *, fine_channels: int = 96, fine_depth: int = 2,
                 plane_depth: int = 1, time_patch: int = 1):
        _check(config, fine_channels, fine_depth, plane_depth, time_patch)
        shape = PlaneShape(config.frames // time_patch, config.grid.h, config.grid.w)
        super().__init__(config, shape)
        self.time_patch = time_patch
        dim, fine = config.channels, fine_channels
        pixels = config.in_channels * time_patch * (config.patch // 2) ** 2  # values of a fine token

        def half(depth: int) -> int:
            return -(-depth // 2)

        self.stem = nn.Conv2d(pixels, fine, 3, padding=1)
        self.fine_encoder = nn.ModuleList(FrameBlock(fine) for _ in range(half(fine_depth)))
        self.down = nn.Conv2d(4 * fine, dim, 1)
        self.encoder_place = nn.Parameter(torch.zeros(dim, shape.h, shape.w))
        self.encoder = nn.ModuleList(SpaceTimeBlock(dim, shape.t) for _ in range(half(config.depth)))
        self.encoder_norm = nn.LayerNorm(dim)
        self.encoder_time = nn.Parameter(torch.zeros(shape.t, 1, 1, dim))
        self._make_planes(plane_depth)
        self.decoder_place = nn.Parameter(torch.zeros(dim, shape.h, shape.w))
        self.decoder = nn.ModuleList(SpaceTimeBlock(dim, shape.t) for _ in range(config.depth))
        self.up = nn.Conv2d(dim, 4 * fine, 1)
        self.fine_decoder = nn.ModuleList(FrameBlock(fine) for _ in range(fine_depth))
        self.decoder_norm = ChannelNorm(fine)
        self.to_pixels = nn.Conv2d(fine, pixels, 3, padding=1)
        self.background = nn.Parameter(torch.zeros(pixels, 2 * shape.h, 2 * shape.w))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)

    def encode(self, clip: Tensor) -> Tensor:
        """Clip (b c t h w, in [-1, 1]) -> raw latent (b c n)."""
        check_clip(clip, self.config)
        side = self.config.patch // 2
        x = rearrange(clip, "b c (t r) (h p) (w q) -> (b t) (c r p q) h w", r=self.time_patch, p=side, q=side)
        x = self._run(self.fine_encoder, self.stem(_channels_last(x)))
        x = self.down(_channels_last(rearrange(x, "f c (h p) (w q) -> f (c p q) h w", p=2, q=2)))
        x = self._run(self.encoder, x + self.encoder_place)
        volume = rearrange(x, "(b t) c h w -> b t h w c", t=self.shape.t)
        return self.latent_of(self.encoder_norm(volume) + self.encoder_time)

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (b c n) -> clip (b c t h w, about [-1, 1])."""
        x = rearrange(self.volume_of(latent), "b t h w c -> (b t) c h w")
        x = self._run(self.decoder, x + self.decoder_place)
        x = rearrange(self.up(x), "f (c p q) h w -> f c (h p) (w q)", p=2, q=2)
        x = self._run(self.fine_decoder, _channels_last(x))
        x = self._wide(self.to_pixels, self.decoder_norm(x)) + self.background
        side = self.config.patch // 2
        return rearrange(x, "(b t) (c r p q) h w -> b c (t r) (h p) (w q)",
                         t=self.shape.t, r=self.time_patch, p=side, q=side)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of frames (f c h w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class FrameBlock(nn.Module):
    """Residual 3x3 convolution within each frame (f c h w)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.space = nn.Conv2d(dim, dim, 3, padding=1)
        self.mix = branch_end(nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.space(self.norm(x))))


class SpaceTimeBlock(nn.Module):
    """Residual (2+1)-D convolution: 3x3 within a frame, then 3 along time ((b t) c h w)."""

    def __init__(self, dim: int, t: int):
        super().__init__()
        self.t = t
        self.norm = ChannelNorm(dim)
        self.space = nn.Conv2d(dim, dim, 3, padding=1)
        reach = min(t - 1, 1)  # a single frame has no neighbours, and no weights for them
        self.time = branch_end(nn.Conv2d(dim, dim, (2 * reach + 1, 1), padding=(reach, 0)))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.space(self.norm(x)))
        # with the pixels of a frame in a row, a convolution along time is two-dimensional: faster than Conv3d
        y = self.time(rearrange(y, "(b t) c h w -> b c t (h w)", t=self.t))
        return x + rearrange(y, "b c t (h w) -> (b t) c h w", h=x.shape[-2])


class AxisPool(nn.Module):
    """Weighted mean over one axis; each group of channels learns which positions count."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.score = nn.Linear(dim, heads)
        self.value = nn.Linear(dim, dim)

    def forward(self, volume: Tensor, axis: int) -> Tensor:  # b t h w c -> the same without the axis
        weight = self.score(volume).softmax(axis).movedim(axis, -2)
        # the mean of the values is the value of the mean: a mean for each group, then only that group's rows of the layer
        means = weight.mT @ volume.movedim(axis, -2)  # ... k c
        rows = self.value.weight.unflatten(0, (self.heads, -1))
        return torch.einsum("...kc,kdc->...kd", means, rows).flatten(-2) + self.value.bias


class PlaneAttention(nn.Module):
    """Pre-norm transformer layer over the tokens of all planes (b n c)."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.out = branch_end(nn.Linear(heads * head_dim, dim))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.GELU(),
                                 branch_end(nn.Linear(3 * dim, dim)))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b n (s k d) -> s b k n d", s=3, k=self.heads)
        x = x + self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b k n d -> b n (k d)"))
        return x + self.mlp(x)


def branch_end(layer: nn.Module) -> nn.Module:
    """Let a residual branch start small, so that deep stacks train at high rates from the first step."""
    with torch.no_grad():
        layer.weight.mul_(BRANCH_SCALE)
    return layer


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _check(config: AutoencoderConfig, fine_channels: int, fine_depth: int, plane_depth: int, time_patch: int) -> None:
    if config.patch % 2:
        raise ValueError(f"the compact autoencoder halves a patch, got the odd patch {config.patch}; "
                         f"use an even one such as {config.patch + 1}")
    if min(fine_channels, time_patch) < 1 or min(fine_depth, plane_depth) < 0:
        raise ValueError(f"fine_channels and time_patch must be at least 1, fine_depth and plane_depth at least 0, "
                         f"got {fine_channels}, {time_patch}, {fine_depth} and {plane_depth}")
    if config.frames % time_patch:
        fits = [n for n in range(1, config.frames + 1) if config.frames % n == 0]
        raise ValueError(f"frames {config.frames} cannot be cut into time_patch {time_patch}; "
                         f"use one of {', '.join(map(str, fits))}, or a multiple of {time_patch} frames")
    if config.channels % config.heads:
        raise ValueError(f"channels {config.channels} cannot be split over {config.heads} heads; "
                         f"use a multiple such as {-(-config.channels // config.heads) * config.heads}")
