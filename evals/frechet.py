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

    The second term is the least |A - B U|^2 over rotations U, with A A^T = C_s and B B^T = C_t (the orthogonal Procrustes
    problem): a sum of squares, so nothing cancels where the sets are close, no square root of a product that is not
    symmetric is needed, and it stays exact where there are fewer samples than features.

    Args:
        s: statistics of one set.
        t: statistics of the other.
        ddof: covariances divide by n - ddof: 1 is unbiased, 0 is what the styleganv protocols do.
    """
    if s.dim != t.dim:
        raise ValueError(f"cannot compare statistics of {s.dim} features with those of {t.dim}")
    a, b = _root(s.covariance(ddof)), _root(t.covariance(ddof))
    left, _, right = np.linalg.svd(b @ a)
    return float(((s.mean - t.mean) ** 2).sum() + ((a - b @ (left @ right)) ** 2).sum())


def chance_distance(s: GaussianStats, n: int, m: int) -> float:
    """Return the distance to expect between two sets of n and m samples of one and the same Gaussian, to first order.

    In the eigenbasis of its covariance, with eigenvalues v: (1/n + 1/m) (sum_i v_i + 1/2 sum_ij v_i v_j (1 + [i=j]) /
    (v_i + v_j)): the mean's own noise, and the second-order expansion of the Bures distance in that of the covariances.
    Of fewer samples than features the eigenvalues say too little, and so does this.

    Args:
        s: statistics that the covariance is taken from.
        n: samples of the one set.
        m: samples of the other.
    """
    values = np.linalg.eigvalsh(s.covariance()).clip(min=0)
    total = values[:, None] + values
    pairs = np.divide(values[:, None] * values, total, out=np.zeros_like(total), where=total > 0)
    return float((1 / n + 1 / m) * (values.sum() + (pairs.sum() + np.trace(pairs)) / 2))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root of a covariance; eigenvalues that rounding made negative are zero."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
