"""The best linear codec of the same size: what an autoencoder must beat."""

from typing import NamedTuple

import torch
from torch import Tensor


class LinearCodec(NamedTuple):
    """Principal components of clips, flattened."""
    mean: Tensor   # d
    basis: Tensor  # k d, orthonormal rows

    def reconstruct(self, clips: Tensor) -> Tensor:
        """Project clips (b ...) on the components and back."""
        centred = clips.flatten(1) - self.mean
        return ((centred @ self.basis.T) @ self.basis + self.mean).reshape(clips.shape)


def fit_linear(clips: Tensor, values: int) -> LinearCodec:
    """Fit `values` principal components by the method of snapshots: the Gram matrix of n clips, not of d pixels.

    Args:
        clips: n ..., float; fewer clips than values give as many components as they span.
    """
    rows = clips.flatten(1)
    mean = rows.mean(0)
    centred = rows - mean
    energy, weights = torch.linalg.eigh((centred @ centred.T).double())  # ascending
    count = min(values, len(rows) - 1)
    energy, weights = energy[-count:].flip(0), weights[:, -count:].flip(1)  # largest first, as QR keeps them best
    basis = (weights / energy.clamp(min=1e-12).sqrt()).T.to(rows) @ centred
    # A float32 Gram matrix knows nothing of components a few thousand times smaller than the largest: their rows come
    # out neither of length one nor orthogonal, yet they span what is left.
    return LinearCodec(mean, torch.linalg.qr(basis.T).Q.T)
