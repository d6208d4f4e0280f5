"""Peak signal-to-noise ratio in dB, as the mean over frames and videos, and pooled over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evals.protocol import METRICS, Estimate, FrameMetric, Row, ratio_estimate

_PEAK = 255.0
_CEILING = 100.0  # dB; what identical frames score, and no frame scores more


def squared_error(real: Tensor, fake: Tensor) -> Tensor:
    """Mean squared error of each frame of k samples: uint8 n h w c and k n h w c -> float64 k n."""
    return torch.stack([_squared_error(real, sample) for sample in fake])  # each stays in the cache


def _squared_error(real: Tensor, fake: Tensor) -> Tensor:  # uint8 n h w c, twice -> float64 n
    apart = torch.maximum(real, fake).sub_(torch.minimum(real, fake))  # in eight bits, which are the fastest
    rows = apart.flatten(2).float().square_().sum(2)  # exact in float32 for rows of up to 258 values
    return rows.sum(1, dtype=torch.float64) / real[0].numel()


def decibel(error: float) -> float:
    """PSNR of a mean squared error, in dB."""
    return min(_CEILING, 10 * math.log10(_PEAK ** 2 / error)) if error > 0 else _CEILING


@METRICS.register("psnr")
class PSNR(FrameMetric):
    """PSNR of each frame, averaged over the frames and then over the videos."""

    def score(self, seen: Tensor, fake: Tensor) -> Tensor:
        """Return dB of each frame: uint8 n h w c and k n h w c -> float64 k n."""
        return (10 * torch.log10(_PEAK ** 2 / squared_error(seen, fake))).clamp(max=_CEILING)


@METRICS.register("psnr_pooled")
class PooledPSNR(FrameMetric):
    """PSNR of the mean squared error over all frames and videos.

    A few exact frames cannot lift it, as they lift the mean of logarithms. The interval is that of the squared
    error over videos, carried through the logarithm to first order (delta method).
    """

    def score(self, seen: Tensor, fake: Tensor) -> Tensor:
        """Return the squared error of each frame: uint8 n h w c and k n h w c -> float64 k n."""
        return squared_error(seen, fake)

    def value(self, row: np.ndarray) -> float:
        """Return dB of one video."""
        return decibel(super().value(row))

    def estimate(self, rows: Sequence[Row]) -> Estimate:
        """Return dB of the mean error, and half its interval."""
        error, half = ratio_estimate(*self._by_video([(video, math.fsum(row), len(row)) for video, row in rows]))
        if half is not None:
            half = 0.0 if decibel(error) == _CEILING else 10 / math.log(10) * half / error  # d dB / d error
        return Estimate(decibel(error), half)

    def position(self, column: Sequence[float]) -> float:
        """Return dB of the mean error at one frame position."""
        return decibel(super().position(column))


@METRICS.register("psnr_mcvd")
class VideoPSNR(FrameMetric):
    """PSNR of the mean squared error of each video, averaged over the videos: what MCVD reports."""

    def score(self, seen: Tensor, fake: Tensor) -> Tensor:
        """Return the squared error of each frame: uint8 n h w c and k n h w c -> float64 k n."""
        return squared_error(seen, fake)

    def value(self, row: np.ndarray) -> float:
        """Return dB of one video."""
        return decibel(super().value(row))

    def position(self, column: Sequence[float]) -> float:
        """Return dB of the mean error at one frame position."""
        return decibel(super().position(column))
