"""Mean and deviation of latents per plane and channel, followed while the encoder learns."""

import torch
from torch import Tensor

from autoencoder.planes import PlaneShape
from tools import dist


class RunningStatistics:
    """Exponentially averaged first and second moments of raw latents, unbiased from the first batch on.

    With decay 0.99 the numbers describe about the last hundred global batches: enough clips to trust, and fresh.
    Every process holds the same state, on the device of the latents, so that no step waits for it.
    """

    def __init__(self, shape: PlaneShape, channels: int, decay: float = 0.99):
        self.shape, self.decay = shape, decay
        self.moments = torch.zeros(2, 3, channels, dtype=torch.float64)  # mean and mean square, not yet unbiased
        self.weight = 0.0                                                # of the data in `moments`, up to 1

    def update(self, latents: list[Tensor]) -> None:
        """Take in this process's latents (b c n each) of one step."""
        self.moments = self.moments.to(latents[0].device)
        sums = torch.zeros_like(self.moments)
        for latent in latents:
            for i, plane in enumerate(latent.detach().double().split(self.shape.sizes, dim=-1)):
                sums[0, i] += plane.mean(-1).sum(0)
                sums[1, i] += plane.square().mean(-1).sum(0)
        count = dist.world() * sum(len(latent) for latent in latents)  # processes have equal shares
        self.moments = self.decay * self.moments + (1 - self.decay) * (dist.all_reduce_sum(sums) / count)
        self.weight = self.decay * self.weight + (1 - self.decay)

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, 3 c each (planes hw, tw, th), float32."""
        if not self.weight:
            return torch.zeros_like(self.moments[0]).float(), torch.ones_like(self.moments[0]).float()
        mean, square = self.moments / self.weight
        return mean.float(), (square - mean.square()).clamp(min=1e-8).sqrt().float()

    def state_dict(self) -> dict:
        return {"moments": self.moments, "weight": self.weight}

    def load_state_dict(self, state: dict) -> None:
        self.moments, self.weight = state["moments"], state["weight"]
