"""What the network is asked to predict, how that is scored, and how its answer becomes a clean estimate."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from latent_diffusion.schedule import Level, ScheduleConfig

PARAMETRISATIONS = ("eps", "x0", "v", "flow")
LOSS_WIDTH = {"huber": 1.0, "charbonnier": 1e-3}  # error at which the loss turns from quadratic to linear
LOSSES = ("l2", "l1", *LOSS_WIDTH)
WEIGHTINGS = ("none", "min_snr", "p2")
NOISES = ("normal", "gamma")


class Denoised(NamedTuple):
    """A network's view of x_t; both in the shape of x_t."""

    x0: Tensor   # clean estimate, clamped if the codec asks
    eps: Tensor  # the network's own noise estimate


class Loss(NamedTuple):
    """Per sample, so that accumulation and many processes divide by the global number of elements."""

    sum: Tensor    # b, weighted loss summed over the elements that count
    count: Tensor  # b, how many those are


@dataclass(frozen=True)
class ProcessConfig:
    """What is predicted and how it is scored; a key that the choice does not read must stay None."""

    parametrisation: str = "v"           # eps | x0 | v | flow
    loss: str = "l2"                     # l2 | l1 | huber | charbonnier
    loss_width: float | None = None      # huber: 1, charbonnier: 0.001 (these are what None stands for)
    weighting: str = "none"              # none | min_snr | p2
    snr_gamma: float | None = None       # min_snr: SNR from which levels count alike, 5; p2: the power, 1
    snr_offset: float | None = None      # p2: k in 1 / (k + SNR)^gamma, 1
    noise: str = "normal"                # normal | gamma (see gamma.py)
    gamma_scale: float | None = None     # gamma: theta_0, 0.001; the larger, the more skewed

    def __post_init__(self):
        choices = {"parametrisation": PARAMETRISATIONS, "loss": LOSSES, "weighting": WEIGHTINGS, "noise": NOISES}
        for key, valid in choices.items():
            value = getattr(self, key)
            if value not in valid:
                raise ValueError(f"process.{key} must be one of {', '.join(valid)}, got {value!r}")
        readers = {"loss_width": self.loss in LOSS_WIDTH, "snr_gamma": self.weighting != "none",
                   "snr_offset": self.weighting == "p2", "gamma_scale": self.noise == "gamma"}
        for key, read in readers.items():
            value = getattr(self, key)
            if value is not None and not read:
                raise ValueError(f"process.{key}={value} is not read with loss={self.loss}, "
                                 f"weighting={self.weighting}, noise={self.noise}; leave it out")
            if value is not None and value <= 0:
                raise ValueError(f"process.{key} must be positive, got {value}")

    def check(self, schedule: ScheduleConfig) -> None:
        """Refuse a parametrisation from which x0 cannot be recovered at the schedule's noisiest level."""
        if self.parametrisation == "eps" and schedule.ends_in_noise:
            other = "" if schedule.name == "flow" else ", or schedule.zero_terminal_snr=false"
            raise ValueError(f"process.parametrisation=eps cannot start from pure noise, with which schedule "
                             f"{schedule.name!r} ends (alpha = 0); use v, x0 or flow{other}")


def expand(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Let a level's value (float, b or b s) multiply x (b ... or b s ...)."""
    if not isinstance(value, Tensor):
        return value
    return value.to(x).reshape(value.shape + (1,) * (x.ndim - value.ndim))


def add_noise(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """x_t of the same shape as x0."""
    return expand(level.alpha, x0) * x0 + expand(level.sigma, x0) * noise


def target(x0: Tensor, noise: Tensor, level: Level, parametrisation: str) -> Tensor:
    """What the network should say: v of Salimans & Ho 2022; flow, the velocity of Lipman et al. 2023."""
    if parametrisation == "eps":
        return noise
    if parametrisation == "x0":
        return x0
    if parametrisation == "v":
        return expand(level.alpha, x0) * noise - expand(level.sigma, x0) * x0
    assert parametrisation == "flow", parametrisation
    return noise - x0


def to_denoised(output: Tensor, x: Tensor, level: Level, parametrisation: str) -> Denoised:
    """Read the network's output at x_t as (x0, eps); the two are consistent: x_t = alpha x0 + sigma eps.

    At a noiseless level an x0 network has no say about the noise, and eps is zero.
    """
    alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
    if parametrisation == "eps":
        return Denoised((x - sigma * output) / alpha, output)
    if parametrisation == "x0":
        return Denoised(output, noise_of(output, x, level))
    if parametrisation == "v":
        power = alpha**2 + sigma**2  # 1 on variance-preserving schedules, less on flow
        return Denoised((alpha * x - sigma * output) / power, (sigma * x + alpha * output) / power)
    assert parametrisation == "flow", parametrisation
    total = alpha + sigma  # 1 on the flow schedule, more on others
    return Denoised((x - sigma * output) / total, (x + alpha * output) / total)


def noise_of(x0: Tensor, x: Tensor, level: Level) -> Tensor:
    """The noise that turns x0 into x at this level; zero where the level has none."""
    alpha = expand(level.alpha, x)
    sigma = torch.as_tensor(expand(level.sigma, x), dtype=x.dtype, device=x.device)
    return torch.where(sigma > 0, (x - alpha * x0) / sigma.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


def loss_weight(level: Level, cfg: ProcessConfig) -> Tensor | float:
    """Factor on the loss of each level, in the shape of level.alpha (tensors).

    They are stated for the loss on x0 (min-SNR, Hang et al. 2023: min(SNR, gamma)) or on eps (P2, Choi et al.
    2022: 1 / (k + SNR)^gamma) and carried to the network's parametrisation by the x0 error that one unit of
    output error makes.
    """
    if cfg.weighting == "none":
        return 1.0
    alpha, sigma = level.alpha.double(), level.sigma.double().clamp_min(1e-12)
    gamma = cfg.snr_gamma
    gain = {"x0": 1 / sigma, "eps": 1 / alpha, "v": 1 / (alpha**2 + sigma**2), "flow": 1 / (alpha + sigma)}
    squared = gain[cfg.parametrisation] ** 2  # (x0 error per output error / sigma)^2
    if cfg.weighting == "min_snr":
        weight = squared * torch.minimum(alpha**2, (5.0 if gamma is None else gamma) * sigma**2)
    else:
        power, offset = 1.0 if gamma is None else gamma, 1.0 if cfg.snr_offset is None else cfg.snr_offset
        weight = squared * alpha**2 * (sigma**2 / (offset * sigma**2 + alpha**2)) ** power
    return weight.to(level.alpha.dtype)


def sample_losses(output: Tensor, wanted: Tensor, level: Level, cfg: ProcessConfig,
                  keep: Tensor | None = None) -> Loss:
    """Weighted loss of each sample.

    Args:
        output: the network's, b ...
        wanted: what `target` says, the same shape.
        level: values of shape b, or b s for a level for each slot.
        keep: bool, True where an element bears loss, in output's shape or its first axes (b s for b s c n).
            None = everywhere.

    Returns:
        float32 sums and counts of shape b; add them up over micro-batches and processes, then divide once.
    """
    error = output.float() - wanted.float()
    counted = torch.ones_like(error) if keep is None else expand(keep, error).expand_as(error)
    error = torch.where(counted > 0, error, 0.0)  # before the loss: no gradient, whatever the others hold
    each = elementwise(error, cfg) * expand(loss_weight(level, cfg), error)
    return Loss(each.flatten(1).sum(1), counted.flatten(1).sum(1))


def elementwise(error: Tensor, cfg: ProcessConfig) -> Tensor:
    """Loss of each element: l2 is e^2, l1 |e|; huber and charbonnier turn from e^2 / 2w to |e| at width w."""
    if cfg.loss == "l2":
        return error**2
    if cfg.loss == "l1":
        return error.abs()
    width = LOSS_WIDTH[cfg.loss] if cfg.loss_width is None else cfg.loss_width
    if cfg.loss == "charbonnier":
        return (error**2 + width**2).sqrt() - width
    small = error.abs() <= width
    return torch.where(small, error**2 / (2 * width), error.abs() - width / 2)
