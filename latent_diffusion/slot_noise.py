"""The noise of one clip of each video: f(seed, video, sample, slot, evaluation), whatever the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from latent_diffusion.noise import mixed, tempered
from tools.rng import randn


class SlotNoise:
    """Draws for a sampler.

    Args:
        ids: (video, sample) of each row.
        slot: the clip.
    """

    def __init__(self, seed: int, ids: Sequence[tuple[int, int]], slot: int):
        self.seed, self.ids, self.slot, self.evaluation = seed, ids, slot, 0

    def __call__(self, like: Tensor) -> Tensor:
        drawn = [randn(like.shape[1:], self.seed, "sample", video, sample, self.slot, self.evaluation)
                 for video, sample in self.ids]
        self.evaluation += 1
        return torch.stack(drawn).to(like)

    def start(self, like: Tensor, temperature: float = 1.0, shared: float = 0.0) -> Tensor:
        """What the clip starts from: of this deviation, a share of the variance common to all clips of a video."""
        own = self(like)
        if shared:
            common = [randn(like.shape[1:], self.seed, "sample", video, sample, "common") for video, sample in self.ids]
            own = mixed(own, torch.stack(common).to(like), shared)
        return own if temperature == 1 else tempered(own, temperature)


class WindowNoise:
    """The same for clips that are made together, b s c n: each has the noise that it would have alone."""

    def __init__(self, seed: int, ids: Sequence[tuple[int, int]], slots: Sequence[int]):
        self.slots = [SlotNoise(seed, ids, slot) for slot in slots]

    def __call__(self, like: Tensor) -> Tensor:
        return torch.stack([noise(one) for noise, one in zip(self.slots, like.unbind(1), strict=True)], 1)

    def start(self, like: Tensor, temperature: float = 1.0, shared: float = 0.0) -> Tensor:
        pairs = zip(self.slots, like.unbind(1), strict=True)
        return torch.stack([noise.start(one, temperature, shared) for noise, one in pairs], 1)
