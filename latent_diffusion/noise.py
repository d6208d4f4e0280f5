"""Where sampling starts: standard normal noise made cooler, truncated, or shared between frames.

All are pure functions of noise that is already drawn, so a video's noise stays a function of its seed. What is
shared keeps mean 0 and variance 1; what is cooled or truncated does not, for the sake of typical samples.
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from autoencoder.planes import PlaneShape


def tempered(noise: Tensor, temperature: float) -> Tensor:
    """Noise of this standard deviation: below 1 it gives up variety for typical samples."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"noise temperature must not be negative, got {temperature}; 1 leaves the noise as it is")
    return temperature * noise


def truncated(noise: Tensor, bound: float) -> Tensor:
    """Standard normal noise -> normal noise that is known to lie within +-bound, by its quantiles: order is kept."""
    if not bound > 0:
        raise ValueError(f"noise bound must be positive, got {bound}")
    low, high = torch.special.ndtr(torch.tensor([-bound, bound], dtype=torch.float64, device=noise.device))
    quantile = low + (high - low) * torch.special.ndtr(noise.double())
    return torch.special.ndtri(quantile).clamp(-bound, bound).to(noise.dtype)


def mixed(own: Tensor, common: Tensor, fraction: float) -> Tensor:
    """Unit-variance noise of which `fraction` of the variance is common (Ge et al. 2023, mixed noise).

    Two results with the same `common` have this correlation; it serves where frames are made one after the other.
    """
    _check(fraction)
    return math.sqrt(1 - fraction) * own + math.sqrt(fraction) * common


def shared(noise: Tensor, fraction: float, dim: int) -> Tensor:
    """Independent noise -> noise of unit variance with correlation `fraction` between the entries along `dim`.

    It takes no further draws: this is the symmetric root of the covariance (1 - f) I + f 1 1^T.
    """
    _check(fraction)
    count, keep = noise.shape[dim], math.sqrt(1 - fraction)
    return keep * noise + (math.sqrt(keep**2 + fraction * count) - keep) * noise.mean(dim, keepdim=True)


def shared_over_frames(noise: Tensor, fraction: float, shape: PlaneShape) -> Tensor:
    """Share a fraction of the noise between all time rows of all clips of a video; b s c n, s clips.

    On tw and th these are the rows at the same w or h. A clip has one hw plane for all its frames, so hw is shared
    between clips only.
    """
    hw, tw, th = noise.split(shape.sizes, dim=-1)
    rows = [rearrange(plane, "b s c (t p) -> b (s t) c p", t=shape.t) for plane in (tw, th)]
    rows = [rearrange(shared(row, fraction, 1), "b (s t) c p -> b s c (t p)", t=shape.t) for row in rows]
    return torch.cat([shared(hw, fraction, 1), *rows], dim=-1)


def _check(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"the shared fraction of noise must lie in [0, 1], got {fraction}")
