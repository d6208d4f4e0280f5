"""Noise from a centred gamma distribution in place of the normal one (Nachmani et al. 2021, Denoising diffusion gamma models).

The paper adds, step by step, gamma variables of scale theta_0 alpha_t; their sum at a level is gamma of the shape
k = (sigma / (theta_0 alpha))^2 and the scale theta_0 alpha, which minus its mean is sigma times a variable of mean 0,
variance 1 and skewness 2 / sqrt(k). This holds for any alpha and sigma; pure noise (alpha = 0) is normal.

All are pure functions of noise that is already drawn: a quantile of the normal becomes the same quantile of the gamma, so
a sample's noise stays a function of its seed.
"""

from collections.abc import Callable, Sequence

import torch
from scipy import special
from torch import Tensor

from latent_diffusion.process import ProcessConfig
from latent_diffusion.schedule import Level

SCALE = 1e-3      # theta_0 of the paper
LARGE_SHAPE = 1e4  # from here on the expansion is exact to 4e-6 within 5.5 deviations, and scipy's inverse soon is not


def shape_of(level: Level, scale: float) -> Tensor:
    """k of the gamma at a level, float64 in the level's shape; at least 1, below which it is a spike with rare giants."""
    alpha, sigma = (torch.as_tensor(value, dtype=torch.float64) for value in (level.alpha, level.sigma))
    return (sigma / (scale * alpha)).square().nan_to_num(nan=1.0, posinf=torch.inf).clamp_min(1.0)


def gamma_noise(noise: Tensor, shape: Tensor) -> Tensor:
    """Standard normal noise (b ...) -> (G - k) / sqrt(k) for G ~ Gamma(k), by its quantiles.

    Args:
        shape: k, float64, one for all (0-d) or of the first axes of the noise; infinite = normal.
    """
    k = shape.to(noise.device).reshape(shape.shape + (1,) * (noise.dim() - shape.dim()))
    n = noise.double()
    root = k.sqrt()
    out = n + (n**2 - 1) / (3 * root) + (n**3 - 7 * n) / (36 * k)  # Cornish & Fisher, to the order 1 / k
    small = (k < LARGE_SHAPE).expand_as(n)
    if bool(small.any()):
        out[small] = _standard_quantile(n[small], k.expand_as(n)[small])
    return out.to(noise.dtype)


def _standard_quantile(n: Tensor, k: Tensor) -> Tensor:
    """The same for small k; each tail by its own inverse, where it is not rounded to 1."""
    tail, shape = special.ndtr(-n.abs().cpu().numpy()), k.cpu().numpy()
    low, high = special.gammaincinv(shape, tail), special.gammainccinv(shape, tail)
    g = torch.where(n < 0, torch.as_tensor(low, device=n.device), torch.as_tensor(high, device=n.device))
    return (g - k) / k.sqrt()


def shaped_noise(noise: Tensor, level: Level, cfg: ProcessConfig) -> Tensor:
    """Noise of unit variance as the process has it at a level, from standard normal noise of the same shape."""
    if cfg.noise == "normal":
        return noise
    return gamma_noise(noise, shape_of(level, SCALE if cfg.gamma_scale is None else cfg.gamma_scale))


def shaped_draw(draw: Callable[[Tensor], Tensor], levels: Sequence[Level], cfg: ProcessConfig) -> Callable[[Tensor], Tensor]:
    """The same for the noise that a sampler draws on its way along `levels` (that of the start is `shaped_noise`'s).

    It draws once in every step that adds noise, and these are all but the last: so call number i is for levels[i + 1].
    """
    if cfg.noise == "normal":
        return draw
    coming = iter(levels[1:])
    return lambda like: shaped_noise(draw(like), next(coming), cfg)
