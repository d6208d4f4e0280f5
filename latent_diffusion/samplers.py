"""Samplers: plain functions from noise to data over a denoiser.

Each takes (denoise, x, levels, draw) and keyword-only options, and returns x0. `levels` run from noisy to
noiseless; one pair of neighbours is one step, and one step is enough for each of them. A schedule may begin
in pure noise (alpha = 0). `draw(x)` gives standard normal noise like x and is called in a fixed order: once
for each step that adds noise, and not at all where none is added.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from latent_diffusion.process import Denoised, noise_of
from latent_diffusion.schedule import Level
from tools.registry import Registry

Denoiser = Callable[[Tensor, Level], Denoised]
Draw = Callable[[Tensor], Tensor]

SAMPLERS = Registry("sampler")


class Posterior(NamedTuple):
    """x at the cleaner level given x0 and x at the noisier one: mean x0 * x0 + x * x, and two variances."""

    x0: float
    x: float
    variance: float  # where x0 is known
    beta: float      # of the forward step between the two levels


def posterior(cur: Level, nxt: Level) -> Posterior:
    """Ho et al. 2020, eq. 7, for any alpha and sigma; pure noise (cur.alpha = 0) tells nothing about nxt."""
    scale = cur.alpha / nxt.alpha
    beta = max(cur.sigma**2 - (scale * nxt.sigma) ** 2, 0.0)
    keep = (nxt.sigma / cur.sigma) ** 2
    return Posterior(nxt.alpha * beta / cur.sigma**2, scale * keep, keep * beta, beta)


@SAMPLERS.register("ddpm")
def ddpm(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw, *,
         variance: str = "fixed_small") -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, eq. 7).

    Args:
        variance: "fixed_small" is the posterior's, right for data that is a point; "fixed_large" the forward
            step's beta, right for data that is standard normal.
    """
    if variance not in ("fixed_small", "fixed_large"):
        raise ValueError(f'sampler option variance must be "fixed_small" or "fixed_large", got {variance!r}')
    for cur, nxt in pairwise(levels):
        x0 = denoise(x, cur).x0
        weights = posterior(cur, nxt)
        x = weights.x0 * x0 + weights.x * x
        if nxt.sigma > 0:
            x = x + math.sqrt(weights.variance if variance == "fixed_small" else weights.beta) * draw(x)
    return x


@SAMPLERS.register("ddim")
def ddim(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw, *,
         eta: float = 0.0, rederive: bool = False) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 and 16).

    Args:
        eta: 0 is deterministic, 1 has the variance of the ancestral sampler.
        rederive: take the noise from the (clamped) x0 and not from the network. PVDM does not.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"sampler option eta must lie in [0, 1], got {eta}")
    for cur, nxt in pairwise(levels):
        x0, eps = denoise(x, cur)
        if rederive:
            eps = noise_of(x0, x, cur)
        variance = eta**2 * posterior(cur, nxt).variance
        x = nxt.alpha * x0 + math.sqrt(max(nxt.sigma**2 - variance, 0.0)) * eps
        if variance > 0:
            x = x + math.sqrt(variance) * draw(x)
    return x


@SAMPLERS.register("heun")
def heun(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw) -> Tensor:
    """Heun's second-order method (Karras et al. 2022, algorithm 1); two evaluations a step, one in the last.

    The probability-flow ODE has two equal forms, with x = alpha y = sigma z: dy / d(sigma / alpha) = eps and
    dz / d(alpha / sigma) = x0. Each step takes the one whose variable is small there, so that pure noise, with
    alpha = 0, is an ordinary point.
    """
    for cur, nxt in pairwise(levels):
        x0 = denoise(x, cur).x0
        guess = _toward(x, x0, cur, nxt)
        if nxt.sigma == 0:
            return guess
        x0_next = denoise(guess, nxt).x0
        if cur.alpha * nxt.alpha < cur.sigma * nxt.sigma:
            x = _toward(x, (x0 + x0_next) / 2, cur, nxt)
        else:
            eps = (noise_of(x0, x, cur) + noise_of(x0_next, guess, nxt)) / 2
            scale = nxt.alpha / cur.alpha
            x = scale * x + (nxt.sigma - scale * cur.sigma) * eps
    return x


@SAMPLERS.register("dpmpp_2m")
def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from one evaluation a step.

    The first and the last step, and those beside pure noise, are of first order: their log-SNR is infinite.
    """
    before = None  # x0 of the step before, and that step's length in log(alpha / sigma)
    for cur, nxt in pairwise(levels):
        x0 = denoise(x, cur).x0
        length = _log_ratio(nxt) - _log_ratio(cur)
        blend = x0
        if before is not None and math.isfinite(length) and math.isfinite(before[1]):
            blend = x0 + (x0 - before[0]) * (length / (2 * before[1]))
        before = x0, length
        x = _toward(x, blend, cur, nxt)
    return x


@SAMPLERS.register("flow_euler")
def flow_euler(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw) -> Tensor:
    """Euler steps along the velocity (Lipman et al. 2023): on the flow schedule x + (t' - t)(eps - x0)."""
    for cur, nxt in pairwise(levels):
        x0, eps = denoise(x, cur)
        x = x + (nxt.alpha - cur.alpha) * x0 + (nxt.sigma - cur.sigma) * eps
    return x


def evaluations(name: str, steps: int, **options) -> int:
    """How often sampler `name` calls the network for this many steps, found by running it on nothing."""
    calls = 0

    def count(x: Tensor, level: Level) -> Denoised:
        nonlocal calls
        calls += 1
        return Denoised(x, x)

    angles = [math.pi / 2 * i / (steps + 1) for i in range(steps, -1, -1)]
    levels = [Level(math.cos(angle), math.sin(angle), angle) for angle in angles]
    SAMPLERS.bind({"name": name, **options})(count, torch.zeros(()), levels, torch.zeros_like)
    return calls


def _toward(x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
    """Move x from cur to nxt as if the data were x0: the exact solution for a constant x0 (DDIM, eta = 0)."""
    shrink = nxt.sigma / cur.sigma
    return shrink * x + (nxt.alpha - shrink * cur.alpha) * x0


def _log_ratio(level: Level) -> float:
    """Half the log-SNR, infinite at both ends."""
    if level.alpha == 0 or level.sigma == 0:
        return -math.inf if level.alpha == 0 else math.inf
    return math.log(level.alpha / level.sigma)
