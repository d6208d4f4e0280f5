"""Structural similarity of RGB frames (Wang et al. 2004), equal to scikit-image with a Gaussian window.

Window 11x11, sigma 1.5, population covariance, range 255, border cropped, mean over channels: what
skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
data_range=255, channel_axis=-1) gives.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from einops import rearrange, reduce
from torch import Tensor

from evals.protocol import METRICS, FrameMetric

_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@METRICS.register("ssim")
class SSIM(FrameMetric):
    """SSIM of each frame, averaged over the frames and then over the videos."""

    def score(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the similarity of each frame: uint8 n h w c, twice -> float64 n."""
        h, w = real.shape[1:3]
        if min(h, w) <= 2 * _RADIUS:
            raise ValueError(f"ssim needs frames of at least {2 * _RADIUS + 1} pixels a side, got {w}x{h}; "
                             f"leave ssim out of --metrics or enlarge with --resolution")
        x, y = (rearrange(v, "n h w c -> n c h w").double() for v in (real, fake))
        # The formula needs the variances only as their sum, so four filtered maps do instead of five.
        mean_x, mean_y, square, product = _blur(torch.stack([x, y, x * x + y * y, x * y]))
        means, mean_square = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
        similarity = ((2 * means + _C1) * (2 * (product - means) + _C2)
                      / ((mean_square + _C1) * (square - mean_square + _C2)))
        return reduce(similarity, "n c h w -> n", "mean")


def _blur(maps: Tensor) -> Tensor:
    """Filter the last two axes with the window, where it fits wholly: ... h w -> ... h-10 w-10."""
    h, w = maps.shape[-2:]
    return _band(h, maps.device) @ (maps @ _band(w, maps.device).mT)


@lru_cache(maxsize=8)
def _band(size: int, device: torch.device) -> Tensor:
    """The 1-D window as a banded matrix: size-10 x size. On a CPU one product is many times a convolution's speed."""
    offsets = torch.arange(size) - torch.arange(size - 2 * _RADIUS)[:, None] - _RADIUS
    taps = torch.exp(-0.5 * (offsets.double() / _SIGMA) ** 2) * (offsets.abs() <= _RADIUS)
    return (taps / taps.sum(1, keepdim=True)).to(device)
