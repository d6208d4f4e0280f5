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
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from latent_diffusion.process import Denoised, noise_of
from latent_diffusion.schedule import Level
from tools.registry import Registry

Denoiser = Callable[[Tensor, Level], Denoised]
Draw = Callable[[Tensor], Tensor]

SAMPLERS = Registry("sampler")
OWN_SPACING = {"deis": "logit", "dpmpp_2m": "logit"}  # of the levels, where a sampler does better with another than "uniform"
DEFAULT, DEFAULT_ON_TABLES = "deis", "ddim"  # the latter where the schedule is a table, as that of PVDM's models is
OWN_STEPS = {"deis": "20"}                   # where a sampler needs other than 50


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
        if _mostly_noise(cur, nxt):
            x = _toward(x, (x0 + x0_next) / 2, cur, nxt)
        else:
            x = _along(x, (noise_of(x0, x, cur) + noise_of(x0_next, guess, nxt)) / 2, cur, nxt)
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


QUADRATURE = list(zip(*(values.tolist() for values in leggauss(16))))  # of the integral over a step of `deis`
ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


@SAMPLERS.register("pndm")
def pndm(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw) -> Tensor:
    """F-PNDM (Liu et al. 2022): the fourth-order linear multistep method on the noise, each step of it a DDIM step.

    The first three steps are pseudo-Runge-Kutta ones of four evaluations, which makes steps + 9 of them. No step to
    the noiseless level is: there is no noise to estimate there. So a run of four steps or fewer has fewer, and takes
    the multistep formula of the order that its history allows. The noise is that of the (clamped) x0.
    """
    past: list[Tensor] = []  # the noise seen here and at up to three levels before, the latest first
    for cur, nxt in pairwise(levels):
        x0 = denoise(x, cur).x0
        past = [noise_of(x0, x, cur), *past[:3]]
        if len(past) < 4 and nxt.sigma > 0:
            x = _runge_kutta(denoise, x, x0, cur, nxt)
        elif len(past) == 1:
            x = _toward(x, x0, cur, nxt)
        else:
            weights = ADAMS_BASHFORTH[len(past)]
            x = _along(x, sum(weight * eps for weight, eps in zip(weights, past, strict=True)), cur, nxt)
    return x


@SAMPLERS.register("deis")
def deis(denoise: Denoiser, x: Tensor, levels: Sequence[Level], draw: Draw, *, order: int = 3, correct: bool = True) -> Tensor:
    """Exponential multistep steps (DEIS, Zhang & Chen 2023), each redone once its end is seen (UniPC, Zhao et al. 2023).

    One evaluation a step. Along d(x / sigma) = x0 d(alpha / sigma), x0 is a polynomial through the latest `order`
    estimates, in the variable alpha / hypot(alpha, sigma). In it x0 is smooth at both ends (near pure noise x0 varies
    with alpha, near the data with sigma^2), so that the first and the last step are steps like the others.

    Args:
        order: points of the polynomial, 1 (DDIM) to 4.
        correct: redo a step with the estimate at its end as one more point, which costs no evaluation.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"sampler option order must be 1, 2, 3 or 4, got {order}")
    seen: list[Estimate] = []  # the latest first
    before = x                 # where the step that led to x began
    for cur, nxt in pairwise(levels):
        x0 = denoise(x, cur).x0
        if correct and seen:
            x = _along_polynomial(before, [Estimate(x0, cur), *seen], seen[0].level, cur)
        seen = [Estimate(x0, cur), *seen[:order - 1]]
        before, x = x, _along_polynomial(x, seen, cur, nxt)
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


def _along(x: Tensor, eps: Tensor, cur: Level, nxt: Level) -> Tensor:
    """The same step as if the noise were eps; not out of pure noise, where x says nothing about x0."""
    scale = nxt.alpha / cur.alpha
    return scale * x + (nxt.sigma - scale * cur.sigma) * eps


class Estimate(NamedTuple):
    """What the network said at a level."""
    x0: Tensor
    level: Level


def _along_polynomial(x: Tensor, seen: Sequence[Estimate], cur: Level, nxt: Level) -> Tensor:
    """Move x from cur to nxt as if x0 were the polynomial through what was seen; see `deis`."""
    weights = step_weights([_angle(one.level) for one in seen], _angle(cur), _angle(nxt))
    scale = math.hypot(nxt.alpha, nxt.sigma)
    return nxt.sigma / cur.sigma * x + sum(scale * weight * one.x0 for weight, one in zip(weights, seen, strict=True))


def step_weights(points: Sequence[float], cur: float, nxt: float) -> list[float]:
    """Weight of each estimate in a step between two angles, where tan(angle) = sigma / alpha.

    sin(nxt) times the integral of its Lagrange polynomial in cos(angle) over cot(angle). The polynomial's value at the
    noiseless level is integrated in closed form; what remains is regular there, too.
    """
    middle, half = (cur + nxt) / 2, (cur - nxt) / 2
    constant = math.cos(nxt) - math.sin(nxt) * math.cos(cur) / math.sin(cur)
    at_end = _lagrange(points, 0.0)
    total = [constant * value for value in at_end]
    for node, share in QUADRATURE:
        angle = middle + half * node
        density = math.sin(nxt) * half * share / math.sin(angle) ** 2
        for i, value in enumerate(_lagrange(points, angle)):
            total[i] += density * (value - at_end[i])
    return total


def _lagrange(points: Sequence[float], angle: float) -> list[float]:
    """The Lagrange polynomials of `points` in 1 - cos(angle), at an angle."""
    places, place = [_versine(point) for point in points], _versine(angle)
    return [math.prod((place - other) / (own - other) for j, other in enumerate(places) if j != i)
            for i, own in enumerate(places)]


def _versine(angle: float) -> float:
    """1 - cos(angle), to full precision for small ones."""
    return 2 * math.sin(angle / 2) ** 2


def _angle(level: Level) -> float:
    """0 of the noiseless level to pi / 2 of pure noise."""
    return math.atan2(level.sigma, level.alpha)


def _mostly_noise(cur: Level, nxt: Level) -> bool:
    """Whether a step between the two is better made in alpha / sigma, towards x0, than in sigma / alpha."""
    return cur.alpha * nxt.alpha < cur.sigma * nxt.sigma


def _runge_kutta(denoise: Denoiser, x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
    """A fourth-order Runge-Kutta step whose parts are DDIM steps (Liu et al. 2022); x0 is that of x at cur.

    As in `heun` it is made with x0 or with the noise, whichever is regular there.
    """
    mid, toward_x0 = _middle(cur, nxt), _mostly_noise(cur, nxt)
    move = _toward if toward_x0 else _along

    def slope(at: Tensor, level: Level) -> Tensor:
        estimate = denoise(at, level).x0
        return estimate if toward_x0 else noise_of(estimate, at, level)

    first = x0 if toward_x0 else noise_of(x0, x, cur)
    second = slope(move(x, first, cur, mid), mid)
    third = slope(move(x, second, cur, mid), mid)
    last = slope(move(x, third, cur, nxt), nxt)
    return move(x, (first + 2 * second + 2 * third + last) / 6, cur, nxt)


def _middle(cur: Level, nxt: Level) -> Level:
    """The level half-way in the label: the mean of the two, brought back to the circle alpha^2 + sigma^2 = 1 if both lie there.

    That is the schedule's own level where it is cosine or flow. Between the indices of a table sigma / alpha is off
    by the table's curvature: by less than 0.5 % in 50 steps of `linear` or `sqrt_linear`.
    """
    alpha, sigma = (cur.alpha + nxt.alpha) / 2, (cur.sigma + nxt.sigma) / 2
    preserving = all(math.isclose(math.hypot(level.alpha, level.sigma), 1, abs_tol=1e-6) for level in (cur, nxt))
    norm = math.hypot(alpha, sigma) if preserving else 1.0
    return Level(alpha / norm, sigma / norm, (cur.t + nxt.t) / 2)


def _log_ratio(level: Level) -> float:
    """Half the log-SNR, infinite at both ends."""
    if level.alpha == 0 or level.sigma == 0:
        return -math.inf if level.alpha == 0 else math.inf
    return math.log(level.alpha / level.sigma)
