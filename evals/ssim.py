"""Structural similarity of RGB frames (Wang et al. 2004), equal to scikit-image with a Gaussian window.

Window 11x11, sigma 1.5, population covariance, range 255, border cropped, mean over channels: what
skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
data_range=255, channel_axis=-1) gives. `ssim_mcvd` is the same of grey frames, as MCVD reports it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from einops import rearrange, reduce
from torch import Tensor

from evals.protocol import METRICS, FrameMetric

_RADIUS, _SIGMA = 5, 1.5
_AT_ONCE = 1 << 16  # pixels of a piece, whose maps stay in the cache
_BLOCK = 48         # outputs of one product
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@METRICS.register("ssim")
class SSIM(FrameMetric):
    """SSIM of each frame, averaged over the frames and then over the videos."""

    def score(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the similarity of each frame: uint8 n h w c, twice -> float64 n."""
        check_size(real)
        return similarity(real, fake)


@METRICS.register("ssim_mcvd")
class GreySSIM(FrameMetric):
    """SSIM of each frame in grey.

    Args:
        binary: first set each channel to 0 or 255, whichever is nearer, as MCVD does with moving digits.
    """

    def __init__(self, *, binary: bool = False):
        super().__init__()
        self.binary = binary

    def score(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the similarity of each frame: uint8 n h w c, twice -> float64 n."""
        check_size(real)
        if self.binary:
            real, fake = (v.gt(127).byte() * 255 for v in (real, fake))
        return similarity(grey(real)[..., None], grey(fake)[..., None])


def check_size(frames: Tensor) -> None:
    """Refuse frames, n h w c, that the window does not fit into."""
    h, w = frames.shape[1:3]
    if min(h, w) <= 2 * _RADIUS:
        raise ValueError(f"ssim needs frames of at least {2 * _RADIUS + 1} pixels a side, got {w}x{h}; "
                         f"leave ssim out of --metrics or enlarge with --resolution")


def grey(frames: Tensor) -> Tensor:
    """Luma (ITU-R 601) in the integers of Pillow's mode L: uint8 n h w c -> uint8 n h w."""
    if frames.shape[-1] == 1:
        return frames[..., 0]
    r, g, b = frames.int().unbind(-1)
    return ((r * 19595 + g * 38470 + b * 7471 + 32768) >> 16).byte()


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of frames: uint8 n h w c, twice -> float64 n.

    With d = x - y and s = x + y the two factors are 1 - var d / (var x + var y + C2) and 1 - mean(d)^2 / (mean(x)^2 +
    mean(y)^2 + C1), where the sums are (var s + var d) / 2 and (mean(s)^2 + mean(d)^2) / 2: four filtered maps, and what
    float32 rounds away is small against 1 (below 1e-6 on video; up to 3e-5 on flat areas of very different levels).
    """
    n = len(x)
    x, y = (rearrange(v, "n h w c -> (n c) h w") for v in (x, y))
    length = max(1, _AT_ONCE // x[0].numel())
    pieces = [_similarity(*pair) for pair in zip(x.split(length), y.split(length))]
    return reduce(torch.cat(pieces), "(n c) -> n", "mean", n=n)


def _similarity(x: Tensor, y: Tensor) -> Tensor:  # uint8 m h w, twice -> float64 m
    x, y = x.float(), y.float()
    maps = x.new_empty(4, *x.shape)
    s, d, s2, d2 = maps
    torch.add(x, y, out=s)
    torch.sub(x, y, out=d)
    centre, shift = 255.0, d[:, ::4, ::4].mean((1, 2), keepdim=True).round_()
    s.sub_(centre)  # what is subtracted changes no variance, and saves digits
    d.sub_(shift)
    torch.mul(s, s, out=s2)
    torch.mul(d, d, out=d2)
    s, d, s2, d2 = _blur(maps)
    var_d, var_s = d2.addcmul_(d, d, value=-1), s2.addcmul_(s, s, value=-1)
    structure = var_d.div(var_s.add_(var_d).mul_(0.5).add_(_C2)).neg_().add_(1)
    square_s, square_d = s.add_(centre).square_(), d.add_(shift).square_()
    luminance = square_d.div(square_s.add_(square_d).mul_(0.5).add_(_C1)).neg_().add_(1)
    return structure.mul_(luminance).flatten(1).sum(1, dtype=torch.float64) / structure[0].numel()


def _blur(maps: Tensor) -> Tensor:
    """Filter the last two axes with the window, where it fits wholly: ... h w -> ... h-10 w-10."""
    h, w = maps.shape[-2:]
    maps = torch.cat([maps[..., i:j] @ _band(j - i, maps.device).mT for i, j in _blocks(w)], dim=-1)
    return torch.cat([_band(j - i, maps.device) @ maps[..., i:j, :] for i, j in _blocks(h)], dim=-2)


def _blocks(size: int) -> list[tuple[int, int]]:
    """Cut an axis so that the band of each block is mostly taps, not zeros."""
    return [(i, min(i + _BLOCK, size - 2 * _RADIUS) + 2 * _RADIUS) for i in range(0, size - 2 * _RADIUS, _BLOCK)]


@lru_cache(maxsize=128)
def _band(size: int, device: torch.device) -> Tensor:
    """The 1-D window as a banded matrix: size-10 x size. On a CPU one product is many times a convolution's speed."""
    offsets = torch.arange(size) - torch.arange(size - 2 * _RADIUS)[:, None] - _RADIUS
    taps = torch.exp(-0.5 * (offsets.double() / _SIGMA) ** 2) * (offsets.abs() <= _RADIUS)
    return (taps / taps.sum(1, keepdim=True)).float().to(device)
