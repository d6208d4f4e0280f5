"""Frechet distance between Gaussians fitted to features, from statistics that stream and merge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class GaussianStats:
    """Mean and covariance of features that come in any batches, in any order, on any number of processes.

    Sums of squares lose all digits where the mean is large against the spread; here each batch is centred on
    its own mean and joined by the pairwise update of Chan, Golub and LeVeque (1983), in float64.

    Args:
        dim: features a sample.
    """

    def __init__(self, dim: int):
        self.dim, self.n = dim, 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))  # sum of (x - mean)(x - mean)^T

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add features: n d, real numbers of any type."""
        if isinstance(features, Tensor):
            features = features.detach().to("cpu", torch.float64).numpy()
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features have shape {features.shape}; wanted (n, {self.dim})")
        if not np.isfinite(features).all():
            raise ValueError("features hold nan or infinity; a distance from them would mean nothing, "
                             "so look for the video that gave them")
        if len(features):
            mean = features.mean(0)
            centred = features - mean
            self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: GaussianStats) -> None:
        """Add all that another instance has seen."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge statistics of {other.dim} features into those of {self.dim}")
        if other.n:
            self._join(other.n, other.mean, other.scatter)

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """Return the covariance: d d; divided by n - ddof."""
        if self.n <= ddof:
            raise ValueError(f"a covariance needs more than {ddof} sample(s), got {self.n}; compare more videos")
        return self.scatter / (self.n - ddof)

    def _join(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total, shift = self.n + n, mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(shift, shift) * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total


def frechet_distance(s: GaussianStats, t: GaussianStats, *, ddof: int = 1) -> float:
    """Return |mean_s - mean_t|^2 + tr(C_s + C_t - 2 (C_s C_t)^(1/2)) (Dowson and Landau 1982).

    tr (C_s C_t)^(1/2) is the sum of the singular values of C_s^(1/2) C_t^(1/2): this needs no square root of a
    product that is not symmetric, and stays exact where there are fewer samples than features.

    Args:
        s: statistics of one set.
        t: statistics of the other.
        ddof: covariances divide by n - ddof: 1 is unbiased, 0 is what the styleganv protocols do.
    """
    if s.dim != t.dim:
        raise ValueError(f"cannot compare statistics of {s.dim} features with those of {t.dim}")
    c, d = s.covariance(ddof), t.covariance(ddof)
    overlap = np.linalg.svd(_root(c) @ _root(d), compute_uv=False).sum()
    shift = s.mean - t.mean
    return float(max(0.0, shift @ shift + np.trace(c) + np.trace(d) - 2 * overlap))  # rounding may go below


def _root(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root of a covariance; eigenvalues that rounding made negative are zero."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
