"""Structural similarity of RGB frames (Wang et al. 2004), equal to scikit-image with a Gaussian window.

Window 11x11, sigma 1.5, population covariance, range 255, border cropped, mean over channels: what
skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
data_range=255, channel_axis=-1) gives. `ssim_mcvd` is the same of grey frames, as MCVD reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from evals.protocol import METRICS, FrameMetric

_RADIUS, _SIGMA = 5, 1.5
_AT_ONCE = 1 << 17  # pixels x channels of a piece, whose maps stay in the cache
_BLOCK = 27         # outputs of one product, at the most
_CENTRE = 128.0
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_FAR = 8.0          # grey levels between two images, from which their means are brought together


@METRICS.register("ssim")
class SSIM(FrameMetric):
    """SSIM of each frame, averaged over the frames and then over the videos."""

    def at_once(self, h: int, w: int, c: int) -> int:
        """Frames of a piece."""
        return max(1, _AT_ONCE // (h * w * c))

    def see(self, real: Tensor) -> list[Seen]:
        """Filter true frames, uint8 n h w c."""
        return see(real)

    def score(self, seen: list[Seen], fake: Tensor) -> Tensor:
        """Return the similarity of each frame: what was seen of the true ones, uint8 k n h w c -> float64 k n."""
        return torch.stack([similarity(seen, sample) for sample in fake])


@METRICS.register("ssim_mcvd")
class GreySSIM(FrameMetric):
    """SSIM of each frame in grey.

    Args:
        binary: first set each channel to 0 or 255, whichever is nearer, as MCVD does with moving digits.
    """

    def __init__(self, *, binary: bool = False):
        super().__init__()
        self.binary = binary

    def see(self, real: Tensor) -> list[Seen]:
        """Filter true frames, uint8 n h w c, in grey."""
        return see(self._grey(real))

    def score(self, seen: list[Seen], fake: Tensor) -> Tensor:
        """Return the similarity of each frame: what was seen of the true ones, uint8 k n h w c -> float64 k n."""
        return torch.stack([similarity(seen, self._grey(sample)) for sample in fake])

    def _grey(self, frames: Tensor) -> Tensor:
        return grey(frames.gt(127).byte() * 255 if self.binary else frames)[..., None]


def grey(frames: Tensor) -> Tensor:
    """Luma (ITU-R 601) in the integers of Pillow's mode L: uint8 n h w c -> uint8 n h w."""
    if frames.shape[-1] == 1:
        return frames[..., 0]
    r, g, b = frames.int().unbind(-1)
    return ((r * 19595 + g * 38470 + b * 7471 + 32768) >> 16).byte()


class Seen(NamedTuple):
    """What the similarity needs of true images x, of m channels of frames; the middle grey is 0."""
    x: Tensor       # h m w
    twice: Tensor   # 2 x
    mean: Tensor    # of x under the window: h-10 m w-10
    light: Tensor   # the same, doubled, black 0: the slope of G in the mean of y
    offset: Tensor  # G where the mean of y is middle grey


def check_size(frames: Tensor) -> None:
    """Refuse frames, n h w c, that the window does not fit into."""
    h, w = frames.shape[1:3]
    if min(h, w) <= 2 * _RADIUS:
        raise ValueError(f"ssim needs frames of at least {2 * _RADIUS + 1} pixels a side, got {w}x{h}; "
                         f"leave ssim out of --metrics or enlarge with --resolution")


def see(frames: Tensor) -> list[Seen]:
    """Filter true frames, uint8 n h w c, in pieces; see check_size."""
    check_size(frames)
    return [_seen(x) for x in _images(frames)]


def similarity(seen: list[Seen], fake: Tensor) -> Tensor:
    """Mean structural similarity of frames: uint8 n h w c with what was seen of the true ones -> float64 n.

    With d = y - x the two factors are N / (N + var d), N = 2 cov(x, y) + C2, and G / (G + mean(d)^2), G = 2 mean(x) mean(y)
    + C1: three maps are filtered for a sample, d, d^2 and 2xy, and one, x, for all samples. What float32 rounds away is small
    against 1, below 1e-6 on video; up to 3e-5 on flat areas of very different levels.
    """
    scores = torch.cat([_similarity(*pair) for pair in zip(seen, _images(fake), strict=True)])
    return reduce(scores, "(n c) -> n", "mean", n=len(fake))


def _images(frames: Tensor) -> Iterator[Tensor]:  # uint8 n h w c -> pieces of float32 h m w, the middle grey 0
    for piece in frames.split(max(1, _AT_ONCE // frames[0].numel())):
        pixels = piece.bitwise_xor(128).view(torch.int8)  # u - 128, in eight bits
        yield rearrange(pixels, "n h w c -> (n c) h w").transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)


def _seen(x: Tensor) -> Seen:
    mean = _blur(x)
    light = mean.add(_CENTRE).mul_(2)
    return Seen(x, x * 2, mean, light, light.mul(_CENTRE).add_(_C1))


def _similarity(seen: Seen, y: Tensor) -> Tensor:  # h m w -> float64 m
    h, m, w = y.shape
    maps = y.new_empty(h, 3, m, w)
    d, d2, xy = maps.unbind(1)
    torch.sub(y, seen.x, out=d)
    shift = d[::4].mean((0, 2), keepdim=True).round_()
    if far := bool(shift.abs().max() > _FAR):  # what is subtracted changes no variance, and saves digits
        d.sub_(shift)
    torch.mul(d, d, out=d2)
    torch.mul(y, seen.twice, out=xy)
    d, d2, xy = _blur(maps).unbind(1)
    square = d * d
    d2.sub_(square)  # var d
    if far:
        torch.mul(d.add_(shift), d, out=square)
    d.add_(seen.mean)  # mean of y
    structure = xy.addcmul_(seen.mean, d, value=-2).add_(_C2)  # N
    luminance = torch.addcmul(seen.offset, seen.light, d, out=d)  # G
    d2.add_(structure)
    square.add_(luminance)
    structure.mul_(luminance).div_(d2.mul_(square))
    return structure.sum(2).sum(0, dtype=torch.float64) / structure[:, 0].numel()


def _blur(maps: Tensor) -> Tensor:
    """Filter the first and the last axis with the window, where it fits wholly: h ... w -> h-10 ... w-10."""
    h, *between, w = maps.shape
    down = maps.new_empty(h - 2 * _RADIUS, maps[0].numel())
    for start, stop in _blocks(h):
        torch.mm(_band(stop - start, maps.device), maps[start:stop].flatten(1), out=down[start:stop - 2 * _RADIUS])
    down = down.view(-1, w)
    both = maps.new_empty(len(down), w - 2 * _RADIUS)
    for start, stop in _blocks(w):
        torch.mm(down[:, start:stop], _band(stop - start, maps.device).mT, out=both[:, start:stop - 2 * _RADIUS])
    return both.view(-1, *between, w - 2 * _RADIUS)


def _blocks(size: int) -> list[tuple[int, int]]:
    """Cut an axis evenly so that the band of each block is mostly taps, not zeros."""
    outputs = size - 2 * _RADIUS
    count = -(-outputs // _BLOCK)
    edges = [round(i * outputs / count) for i in range(count + 1)]
    return [(i, j + 2 * _RADIUS) for i, j in pairwise(edges)]


@lru_cache(maxsize=128)
def _band(size: int, device: torch.device) -> Tensor:
    """The 1-D window as a banded matrix: size-10 x size. On a CPU one product is many times a convolution's speed."""
    offsets = torch.arange(size) - torch.arange(size - 2 * _RADIUS)[:, None] - _RADIUS
    taps = torch.exp(-0.5 * (offsets.double() / _SIGMA) ** 2) * (offsets.abs() <= _RADIUS)
    return (taps / taps.sum(1, keepdim=True)).float().to(device)
