"""A triplane autoencoder of few operations: depthwise convolutions mix places, perceptrons mix channels (ConvNeXt, 2022).

Nearly all of its multiplications are in wide perceptrons, so for the same work it has several times the width of
stacked 3x3 convolutions or of attention. Volumes become planes and planes volumes as in compact.py, but without attention
among the planes: the same work in the decoder's blocks gives more. Learned positions are stored ten times smaller than
they count: Adam moves every number by the same rate, so they learn a fixed scene ten times as fast as the weights around
them. What each position adds to the layers at the latent is scaled likewise, by three.
"""

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from autoencoder.compact import PlanePath, branch_end
from autoencoder.model import ARCHITECTURES, AutoencoderConfig, check_clip

POSITION_GAIN = 10.0
OWN_GAIN = 3.0


@ARCHITECTURES.register("separable")
class SeparableAutoencoder(PlanePath):
    """Patches -> separable blocks -> planes -> latent; the decoder mirrors it.

    Of the configuration, `depth` counts the decoder's blocks (the encoder has a third as many, at least one), `heads` are
    the groups of channels that are pooled apart, and `head_dim` is not used.

    Args:
        config: sizes.
        expand: hidden width of every perceptron, in units of `channels`.
        kernel: side of the depthwise convolutions within a frame, an odd number.
    """

    def __init__(self, config: AutoencoderConfig, *, expand: int = 2, kernel: int = 5):
        _check(config, expand, kernel)
        super().__init__(config, config.grid)
        dim, shape, pixels = config.channels, config.grid, config.in_channels * config.patch**2

        def blocks(depth: int) -> nn.ModuleList:
            return nn.ModuleList(SeparableBlock(dim, shape.t, expand, kernel) for _ in range(depth))

        self.embed = nn.Linear(pixels, dim)
        self.encoder_place = nn.Parameter(torch.zeros(shape.h, shape.w, dim))
        self.encoder = blocks(max(1, config.depth // 3))
        self.encoder_norm = nn.LayerNorm(dim)
        self.encoder_time = nn.Parameter(torch.zeros(shape.t, 1, 1, dim))
        self._make_planes(0, partial(PositionLinear, shape.total))
        self.decoder_place = nn.Parameter(torch.zeros(shape.h, shape.w, dim))
        self.decoder = blocks(config.depth)
        self.decoder_norm = nn.LayerNorm(dim)
        self.to_pixels = branch_end(nn.Linear(dim, pixels))
        self.background = nn.Parameter(torch.zeros(shape.h, shape.w, pixels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)

    def encode(self, clip: Tensor) -> Tensor:
        """Clip (b c t h w, in [-1, 1]) -> raw latent (b c n)."""
        check_clip(clip, self.config)
        p = self.config.patch
        x = self.embed(rearrange(clip, "b c t (h p) (w q) -> b t h w (c p q)", p=p, q=p))
        x = self._run(self.encoder, x + POSITION_GAIN * self.encoder_place)
        return self.latent_of(self.encoder_norm(x) + POSITION_GAIN * self.encoder_time, POSITION_GAIN)

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (b c n) -> clip (b c t h w, about [-1, 1])."""
        x = self.volume_of(latent, POSITION_GAIN) + POSITION_GAIN * self.decoder_place
        x = self.decoder_norm(self._run(self.decoder, x))
        x = self._wide(self.to_pixels, x) + POSITION_GAIN * self.background
        p = self.config.patch
        return rearrange(x, "b t h w (c p q) -> b c t (h p) (w q)", p=p, q=p)


class PositionLinear(nn.Linear):
    """A linear layer on tokens (b n c), to whose weight each of the n positions adds its own, zero at the start."""

    def __init__(self, positions: int, dim: int, dim_out: int):
        super().__init__(dim, dim_out)
        self.own = nn.Parameter(torch.zeros(positions, dim, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + OWN_GAIN * torch.einsum("bni,nio->bno", x, self.own)


class SeparableBlock(nn.Module):
    """Residual block on tokens (b t h w c): depthwise in the frame and along time, then a perceptron over channels."""

    def __init__(self, dim: int, t: int, expand: int, kernel: int):
        super().__init__()
        self.space = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        reach = min(t - 1, 1)  # a single frame has no neighbours, and no weights for them
        self.time = nn.Conv2d(dim, dim, (2 * reach + 1, 1), padding=(reach, 0), groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, expand * dim)
        self.down = branch_end(nn.Linear(expand * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        t, h = x.shape[1:3]
        y = self.space(rearrange(x, "b t h w c -> (b t) c h w"))
        # with the pixels of a frame in a row, a convolution along time is two-dimensional: faster than Conv3d
        y = self.time(rearrange(y, "(b t) c h w -> b c t (h w)", t=t))
        y = rearrange(y, "b c t (h w) -> b t h w c", h=h)
        return x + self.down(F.gelu(self.up(self.norm(y))))


def _check(config: AutoencoderConfig, expand: int, kernel: int) -> None:
    if expand < 1 or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"expand must be at least 1 and kernel odd, got {expand} and {kernel}; such as 2 and 5")
    if config.channels % config.heads:
        raise ValueError(f"channels {config.channels} cannot be split over {config.heads} heads; "
                         f"use a multiple such as {-(-config.channels // config.heads) * config.heads}")
