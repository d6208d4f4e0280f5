"""Peak signal-to-noise ratio in dB, as the mean over frames and videos, and pooled over all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evals.protocol import METRICS, FrameMetric, ratio_estimate

_PEAK = 255.0
_CEILING = 100.0  # dB; what identical frames score, and no frame scores more


def squared_error(real: Tensor, fake: Tensor) -> Tensor:
    """Mean squared error of each frame: uint8 n h w c, twice -> float64 n."""
    difference = real.float() - fake.float()  # its square is at most 65025, so float32 holds it exactly
    return difference.square_().sum((1, 2, 3), dtype=torch.float64) / real[0].numel()


def decibel(error: float) -> float:
    """PSNR of a mean squared error, in dB."""
    return min(_CEILING, 10 * math.log10(_PEAK ** 2 / error)) if error > 0 else _CEILING


@METRICS.register("psnr")
class PSNR(FrameMetric):
    """PSNR of each frame, averaged over the frames and then over the videos."""

    def score(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return dB of each frame: uint8 n h w c, twice -> float64 n."""
        return (10 * torch.log10(_PEAK ** 2 / squared_error(real, fake))).clamp(max=_CEILING)


@METRICS.register("psnr_pooled")
class PooledPSNR(FrameMetric):
    """PSNR of the mean squared error over all frames and videos.

    A few exact frames cannot lift it, as they lift the mean of logarithms. The interval is that of the squared
    error over videos, carried through the logarithm to first order (delta method).
    """

    def score(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the squared error of each frame: uint8 n h w c, twice -> float64 n."""
        return squared_error(real, fake)

    def compute(self) -> dict:
        """Return mean, ci95, n, and `per_frame`, all in dB."""
        assert self._rows, "compute() before update()"
        frames = self._by_video([(video, math.fsum(row), len(row)) for video, row in self._rows])
        error, half = ratio_estimate(*frames)
        if half is not None:
            half = 0.0 if decibel(error) == _CEILING else 10 / math.log(10) * half / error  # d dB / d error
        return {"mean": decibel(error), "ci95": half, "n": len(self._rows),
                "per_frame": [decibel(e) for e in self._per_frame()]}
