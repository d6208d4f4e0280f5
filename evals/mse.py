"""Mean squared error of pixels in [0, 1], as MCVD reports it."""

from __future__ import annotations

from torch import Tensor

from evals.protocol import METRICS, FrameMetric
from evals.psnr import squared_error


@METRICS.register("mse")
class MSE(FrameMetric):
    """Squared error of each frame, averaged over the frames and then over the videos."""
    higher_is_better = False

    def score(self, seen: Tensor, fake: Tensor) -> Tensor:
        """Return the error of each frame: uint8 n h w c and k n h w c -> float64 k n."""
        return squared_error(seen, fake) / 255 ** 2
