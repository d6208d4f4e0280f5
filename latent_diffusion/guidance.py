"""Guidance: functions that wrap denoisers into another denoiser, before a sampler sees it."""

import math

import torch
from torch import Tensor

from latent_diffusion.process import Denoised
from latent_diffusion.samplers import Denoiser
from latent_diffusion.schedule import Level


def classifier_free(cond: Denoiser, uncond: Denoiser, weight: float) -> Denoiser:
    """(1 + w) cond - w uncond (Ho & Salimans 2022, eq. 6), on x0 and eps alike; w = 0 never calls `uncond`.

    With a weaker model of the same condition as `uncond` it is autoguidance (Karras et al. 2024), with a
    noisier history it is history guidance (Song et al. 2025).
    """
    if weight == 0:
        return cond

    def denoise(x: Tensor, level: Level) -> Denoised:
        pairs = zip(cond(x, level), uncond(x, level), strict=True)
        return Denoised(*((1 + weight) * with_it - weight * without for with_it, without in pairs))

    return denoise


def within(inside: Denoiser, outside: Denoiser, low: float = 0.0, high: float = math.inf) -> Denoiser:
    """`inside` where low <= sigma / alpha <= high, else `outside` (Kynkaanniemi et al. 2024)."""
    if not 0 <= low < high:
        raise ValueError(f"guidance interval needs 0 <= low < high in sigma / alpha, got {low} and {high}")

    def denoise(x: Tensor, level: Level) -> Denoised:
        ratio = level.sigma / level.alpha if level.alpha > 0 else math.inf
        return (inside if low <= ratio <= high else outside)(x, level)

    return denoise


def clamp_x0(denoise: Denoiser, low: float | Tensor, high: float | Tensor) -> Denoiser:
    """Clamp the clean estimate, and leave the network's noise estimate as it is; goes around guidance."""
    if not bool(torch.as_tensor(low < high).all()):
        raise ValueError(f"clamp needs low < high, got {low} and {high}")

    def clamped(x: Tensor, level: Level) -> Denoised:
        x0, eps = denoise(x, level)
        return Denoised(x0.clamp(low, high), eps)

    return clamped
