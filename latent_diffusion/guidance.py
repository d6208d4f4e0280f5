"""Guidance: functions that wrap denoisers into another denoiser, before a sampler sees it.

All of it is one sum, `guided`: an estimate, pushed from what a weaker model says towards what a stronger one does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latent_diffusion.process import Denoised
from latent_diffusion.samplers import Denoiser
from latent_diffusion.schedule import Level


class Push(NamedTuple):
    """weight (toward - away)."""

    toward: Denoiser
    away: Denoiser
    weight: float


def guided(base: Denoiser, pushes: Sequence[Push]) -> Denoiser:
    """base + sum of the pushes, on x0 and eps alike; each denoiser is called once, one that cancels out never."""
    weights: dict[Denoiser, float] = {base: 1.0}
    for push in pushes:
        weights[push.toward] = weights.get(push.toward, 0.0) + push.weight
        weights[push.away] = weights.get(push.away, 0.0) - push.weight
    weights = {denoise: weight for denoise, weight in weights.items() if abs(weight) > 1e-12}
    if len(weights) == 1:  # all weights together are 1
        return next(iter(weights))

    def denoise(x: Tensor, level: Level) -> Denoised:
        said = [(weight, other(x, level)) for other, weight in weights.items()]
        return Denoised(sum(weight * one.x0 for weight, one in said), sum(weight * one.eps for weight, one in said))

    return denoise


def classifier_free(cond: Denoiser, uncond: Denoiser, weight: float) -> Denoiser:
    """(1 + w) cond - w uncond (Ho & Salimans 2022, eq. 6); w = 0 never calls `uncond`.

    With a weaker model of the same condition as `uncond` it is autoguidance (Karras et al. 2024, whose w is 1 + this
    one); with one that sees a noisier or thinner history it holds on to what only the whole history shows.
    """
    return guided(cond, [Push(cond, uncond, weight)])


def composed(uncond: Denoiser, conds: Sequence[tuple[Denoiser, float]]) -> Denoiser:
    """uncond + sum of w (cond - uncond): several conditions at once (Liu et al. 2022, "Compositional").

    With weights of 1 it is exact where the conditions are independent given x_t, as when each concerns its own part of
    x. With stretches of one history as the conditions it is history guidance in time (Song et al. 2025).
    """
    return guided(uncond, [Push(cond, uncond, weight) for cond, weight in conds])


def fractional(full: Denoiser, part: Denoiser, uncond: Denoiser, weight: float) -> Denoiser:
    """full + w (part - uncond): fractional history guidance (Song et al. 2025).

    Args:
        full: sees the history as it is.
        part: sees a fraction of it: noised (process.add_noise, with its level told), or fewer frames (masks.thinned).
            Noise hides detail first, so the push keeps what is slow and large, and leaves the motion free; with
            part = full it is `classifier_free`, which at high weights stands still.
        uncond: sees no history.
    """
    return guided(full, [Push(part, uncond, weight)])


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


class Views(NamedTuple):
    """Denoisers of one clip that know more or less of what is around it."""

    full: Denoiser     # all that is finished
    nothing: Denoiser  # the same one, where nothing is
    part: Denoiser     # a share of it
    weak: Denoiser     # a weaker model, or again `nothing`


def steered(views: Views, weight: float, history: float, low: float = 0.0, high: float = math.inf) -> Denoiser:
    """full + weight (full - weak) + history (part - nothing), where low <= sigma / alpha <= high; else full.

    With weight = -history and weak = nothing it leads away from what a part of the history shows.
    """
    pushed = guided(views.full, [Push(views.full, views.weak, weight), Push(views.part, views.nothing, history)])
    return within(pushed, views.full, low, high)
