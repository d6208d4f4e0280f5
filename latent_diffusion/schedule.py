"""Noise schedules: how much signal and how much noise each level holds, in training and in sampling.

A level is x_t = alpha * x0 + sigma * noise. Discrete schedules (the tables of DDPM and PVDM) label it with an
index, 0 (clean) .. steps - 1 (noisy), and -1 for no noise at all; continuous ones with a t in [0, 1]. The
label is what the network is fed.

`shift` multiplies every sigma / alpha (log-SNR - 2 log shift): a latent with more positions needs more noise
to lose the same detail (Hoogeboom et al. 2023, sec. 3.1, shift = side / 64). A table is made noisier by it.
In continuous schedules, where t already names a noise level, it moves the levels that are trained and
sampled: t' = s t / (1 + (s - 1) t) for flow (Esser et al. 2024, sec. 5.3.2), tan(pi t' / 2) = s tan(pi t / 2)
for cosine.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, repeat
from typing import NamedTuple

import torch
from torch import Tensor

BETAS = {"sqrt_linear": (0.0015, 0.0195), "linear": (1e-4, 0.02)}  # discrete schedules: first and last beta
NAMES = (*BETAS, "cosine", "flow")
SPACINGS = ("uniform", "trailing", "karras", "logsnr", "logit")
COSINE_END = 2 / math.pi * math.atan(math.exp(5))  # last t of the cosine that keeps some signal: log-SNR -10
RATIO_RANGE = (0.002, 80.0)  # sigma / alpha that karras and logsnr cover where the schedule has no bounds
KARRAS_RHO = 7.0  # Karras et al. 2022, eq. 5
LOGIT_POWER = 2.0                    # of "logit": sigma / alpha = ((1 - s) / s)^2 for evenly spaced s
LOGIT_END = math.tan(math.pi / 400)  # where it ends if the schedule has no bounds: the last level of 200 cosine steps


class Level(NamedTuple):
    """x_t = alpha * x0 + sigma * noise; floats when sampling, tensors (b, or b s) when training."""

    alpha: float | Tensor
    sigma: float | Tensor
    t: float | Tensor  # what the network is fed


@dataclass(frozen=True)
class ScheduleConfig:
    """Which schedule; a key that the named schedule does not read must stay None."""

    name: str = "cosine"                   # sqrt_linear | linear | cosine | flow
    shift: float = 1.0                     # multiplies sigma / alpha everywhere
    zero_terminal_snr: bool | None = None  # alpha = 0 at the noisiest level; None: not for discrete schedules
    steps: int | None = None               # discrete: number of levels, 1000
    start: float | None = None             # discrete: first beta, 0.0015 (sqrt_linear) or 0.0001 (linear)
    end: float | None = None               # discrete: last beta, 0.0195 (sqrt_linear) or 0.02 (linear)
    logit_mean: float | None = None        # flow: training times are sigmoid(mean + std * normal), 0
    logit_std: float | None = None         # 1

    def __post_init__(self):
        if self.name not in NAMES:
            raise ValueError(f"schedule.name must be one of {', '.join(NAMES)}, got {self.name!r}")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"schedule.shift must be positive, got {self.shift}")
        unread = ("logit_mean", "logit_std") if self.name != "flow" else ()
        unread += ("steps", "start", "end") if not self.discrete else ()
        for key in unread:
            value = getattr(self, key)
            if value is not None:
                raise ValueError(f"schedule.{key}={value} is not read by {self.name!r}; leave it out")
        if self.name == "flow" and self.zero_terminal_snr is False:
            raise ValueError("schedule.zero_terminal_snr=False does not fit 'flow', which ends in noise; "
                             "leave it out")
        if self.logit_std is not None and self.logit_std <= 0:
            raise ValueError(f"schedule.logit_std must be positive, got {self.logit_std}")
        if self.discrete:
            self._check_table()

    def _check_table(self):
        if self.size < 2:
            raise ValueError(f"schedule.steps must be at least 2, got {self.size}")
        first, last = self.betas
        if not 0 < first <= last < 1:
            raise ValueError(f"schedule needs 0 < start <= end < 1, got start={first}, end={last}")

    @property
    def discrete(self) -> bool:
        return self.name in BETAS

    @property
    def size(self) -> int:
        """Number of levels of a discrete schedule."""
        return 1000 if self.steps is None else self.steps

    @property
    def betas(self) -> tuple[float, float]:
        first, last = BETAS[self.name]
        return (first if self.start is None else self.start), (last if self.end is None else self.end)

    @property
    def ends_in_noise(self) -> bool:
        """Whether alpha is exactly 0 at the noisiest level."""
        return (not self.discrete) if self.zero_terminal_snr is None else self.zero_terminal_snr

    @property
    def t_max(self) -> float:
        """Label of the noisiest level before the shift."""
        if self.discrete:
            return self.size - 1
        return 1.0 if self.ends_in_noise else COSINE_END


def level_at(cfg: ScheduleConfig, t: float | Tensor) -> Level:
    """The level with label t (float, or a tensor of any shape).

    Raises:
        ValueError: t lies outside the schedule; -1 (discrete) and 0 (continuous) are the noiseless level.
    """
    label = torch.as_tensor(t, dtype=torch.float64)
    low, high = (-1, cfg.size - 1) if cfg.discrete else (0, 1)
    if bool(((label < low) | (label > high) | (cfg.discrete & (label != label.round()))).any()):
        kind = "an integer" if cfg.discrete else "a number"
        raise ValueError(f"level t={t} is not in schedule {cfg.name!r}; it takes {kind} from {low} to {high}")
    alpha, sigma = _alpha_sigma(cfg, label)
    if isinstance(t, Tensor):
        dtype = t.dtype if t.is_floating_point() else torch.get_default_dtype()
        return Level(alpha.to(dtype), sigma.to(dtype), t)
    return Level(alpha.item(), sigma.item(), float(t))


def clean_level(cfg: ScheduleConfig) -> Level:
    """The noiseless level: alpha 1, sigma 0."""
    return Level(1.0, 0.0, -1.0 if cfg.discrete else 0.0)


def training_level(cfg: ScheduleConfig, u: Tensor) -> Level:
    """The level to train each sample at, by the inverse CDF of training times, from u uniform in (0, 1)."""
    u = u.clamp(0.0, 1.0)
    t = u.double()
    if cfg.discrete:
        t = (t * cfg.size).floor().clamp(max=cfg.size - 1)
    elif cfg.name == "flow":
        mean = 0.0 if cfg.logit_mean is None else cfg.logit_mean
        std = 1.0 if cfg.logit_std is None else cfg.logit_std
        t = _shifted(cfg, torch.sigmoid(mean + std * torch.special.ndtri(t)))
    else:
        t = _shifted(cfg, t * cfg.t_max)
    alpha, sigma = _alpha_sigma(cfg, t)
    return Level(alpha.to(u.dtype), sigma.to(u.dtype), t.to(u.dtype))


def sampling_levels(cfg: ScheduleConfig, steps: int | str, spacing: str = "uniform") -> list[Level]:
    """Levels from noisy to clean, steps + 1 of them, the last noiseless.

    Args:
        steps: number of steps; or, as in guided diffusion's respacing, "10,20,30" (that many in each equal
            part of the schedule, the cleanest first) or "ddim50" (every k-th index from 0; discrete only).
        spacing: "uniform" in t (discrete: integers of linspace(-1, last, steps + 1), as PVDM); "trailing"
            (the same but rounded, Lin et al. 2023); "karras", "logsnr" and "logit" by noise-to-signal ratio, with
            labels between the table's indices where the schedule is discrete. "logit" is like "logsnr" where signal
            and noise are alike, and takes longer steps towards either end.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
    text = str(steps).strip()
    if text.isdecimal() and int(text) > 0:
        count = int(text)
        if spacing in ("karras", "logsnr", "logit"):
            return [*_levels_by_ratio(cfg, count, spacing), clean_level(cfg)]
        times = _index_times(cfg, count, spacing) if cfg.discrete else _section_times(cfg, [count])
    elif spacing != "uniform":
        raise ValueError(f"steps={steps!r} with spacing {spacing!r} needs a plain number of steps, 1 or more")
    else:
        times = _respaced_times(cfg, text)
    return [level_at(cfg, t) for t in times] + [clean_level(cfg)]


def _alpha_sigma(cfg: ScheduleConfig, t: Tensor) -> tuple[Tensor, Tensor]:  # float64 labels, any shape
    if cfg.discrete:
        alpha, sigma = _table(cfg).to(t.device)[:, t.long() + 1]  # index 0 of the table is t = -1
        return alpha, sigma
    if cfg.name == "flow":
        return 1 - t, t
    # sin of both, so that each is exactly 0 at its own end
    return torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)


def _shifted(cfg: ScheduleConfig, t: Tensor) -> Tensor:
    """Label of the level with `shift` times the noise-to-signal ratio of t; continuous schedules."""
    if cfg.name == "flow":
        return cfg.shift * t / (1 + (cfg.shift - 1) * t)
    angle = math.pi / 2 * t
    return torch.atan2(cfg.shift * torch.sin(angle), torch.sin(math.pi / 2 * (1 - t))) / (math.pi / 2)


@lru_cache(maxsize=16)
def _table(cfg: ScheduleConfig) -> Tensor:
    """Rows alpha and sigma of a discrete schedule, from t = -1 to the noisiest (2, steps + 1), float64."""
    first, last = cfg.betas
    if cfg.name == "sqrt_linear":
        betas = torch.linspace(math.sqrt(first), math.sqrt(last), cfg.size, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(first, last, cfg.size, dtype=torch.float64)
    alpha = torch.cumprod(1 - betas, 0).sqrt()
    if cfg.ends_in_noise:  # Lin et al. 2023, algorithm 1: move the last to 0, stretch the first back in place
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    sigma = (1 - alpha**2).sqrt()
    norm = (alpha**2 + (cfg.shift * sigma) ** 2).sqrt()
    clean = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    return torch.cat([clean, torch.stack([alpha / norm, cfg.shift * sigma / norm])], dim=1)


def _index_times(cfg: ScheduleConfig, steps: int, spacing: str) -> list[int]:
    if steps > cfg.size:
        raise ValueError(f"{steps} steps do not fit the {cfg.size} levels of schedule {cfg.name!r}; "
                         f"use at most {cfg.size}")
    if spacing == "trailing":
        grid = torch.linspace(-1, cfg.size - 1, steps + 1, dtype=torch.float64).round()
    else:  # float32 and truncated: the indices of the published PVDM code for every number of steps
        grid = torch.linspace(-1, cfg.size - 1, steps + 1, dtype=torch.float32)
    return grid.int().tolist()[:0:-1]


def _section_times(cfg: ScheduleConfig, counts: list[int]) -> list[float]:
    parts = len(counts)
    grid = [(part + (i + 1) / count) / parts for part, count in enumerate(counts) for i in range(count)]
    grid[-1] = 1.0  # not 0.99..: the last level must be pure noise where the schedule says so
    return _shifted(cfg, torch.tensor(grid[::-1], dtype=torch.float64) * cfg.t_max).tolist()


def _respaced_times(cfg: ScheduleConfig, text: str) -> list[float]:
    """Times for "ddim50" and "10,20,30" (Nichol & Dhariwal 2021, `space_timesteps`)."""
    if text.startswith("ddim") and text[4:].isdecimal():
        if not cfg.discrete:
            raise ValueError(f"steps={text!r} needs a discrete schedule, not {cfg.name!r}; use {text[4:]}")
        strides = {len(range(0, cfg.size, stride)): stride for stride in range(cfg.size, 0, -1)}  # the smallest of each
        count = int(text[4:])
        if count not in strides:
            near = min(strides, key=lambda possible: abs(possible - count))
            raise ValueError(f"steps={text!r}: no stride cuts {cfg.size} levels into {count}; use ddim{near}")
        return list(range(0, cfg.size, strides[count]))[::-1]
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"steps={text!r} is no number of steps; use 50, or 10,20,30 by sections, or ddim50")
    counts = [int(part) for part in parts]
    return _section_indices(cfg, counts)[::-1] if cfg.discrete else _section_times(cfg, counts)


def _section_indices(cfg: ScheduleConfig, counts: list[int]) -> list[int]:
    taken, start = [], 0
    for part, count in enumerate(counts):
        size = cfg.size // len(counts) + (part < cfg.size % len(counts))
        if count > size:
            wanted = ",".join(map(str, counts))
            raise ValueError(f"steps={wanted}: section {part + 1} has {size} levels, too few for {count}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # summed up, not multiplied: where a step ends on a half, the published labels depend on it
        taken += [start + round(index) for index in accumulate(repeat(stride, count - 1), initial=0.0)]
        start += size
    return taken


def _levels_by_ratio(cfg: ScheduleConfig, steps: int, spacing: str) -> Iterator[Level]:
    """Noisy to clean by sigma / alpha; pure noise, whose ratio is infinite, is first where there is any."""
    if cfg.discrete:
        alpha, sigma = _table(cfg)[:, [1, -2 if cfg.ends_in_noise else -1]]
        low, high = (sigma / alpha).tolist()
    else:
        low, high = (cfg.shift * ratio for ratio in RATIO_RANGE)
        low = cfg.shift * LOGIT_END if spacing == "logit" else low
        if not cfg.ends_in_noise:
            high = cfg.shift * math.tan(math.pi / 2 * cfg.t_max)
    if spacing == "logit":
        yield from _logit_levels(cfg, steps, low, high)
        return
    if cfg.ends_in_noise:
        yield level_at(cfg, cfg.t_max)
        steps -= 1
    root = 1 / KARRAS_RHO
    for i in range(steps):
        s = i / max(steps - 1, 1)
        if spacing == "karras":
            yield _level_of_ratio(cfg, (high**root + s * (low**root - high**root)) ** KARRAS_RHO)
        else:
            yield _level_of_ratio(cfg, high * (low / high) ** s)


def _logit_levels(cfg: ScheduleConfig, steps: int, low: float, high: float) -> Iterator[Level]:
    """Pure noise is at s = 0, an ordinary place."""
    first = 0.0 if cfg.ends_in_noise else 1 / (1 + (high / cfg.shift) ** (1 / LOGIT_POWER))
    last = 1 / (1 + (low / cfg.shift) ** (1 / LOGIT_POWER))
    yield level_at(cfg, cfg.t_max) if cfg.ends_in_noise else _level_of_ratio(cfg, high)
    for i in range(1, steps - 1):
        s = first + (last - first) * i / (steps - 1)
        yield _level_of_ratio(cfg, cfg.shift * ((1 - s) / s) ** LOGIT_POWER)
    if steps > 1:
        yield _level_of_ratio(cfg, low)


def _level_of_ratio(cfg: ScheduleConfig, ratio: float) -> Level:
    """The level with this sigma / alpha; the label may lie between two indices of a table (by log ratio)."""
    if cfg.name == "flow":
        return Level(1 / (1 + ratio), ratio / (1 + ratio), ratio / (1 + ratio))
    angle = math.atan(ratio)
    alpha, sigma = math.cos(angle), math.sin(angle)
    if not cfg.discrete:
        return Level(alpha, sigma, angle / (math.pi / 2))
    table = _table(cfg)[:, 1:]
    logs = (table[1] / table[0]).log()
    right = int(torch.searchsorted(logs, math.log(ratio)).clamp(1, cfg.size - 1))
    low, high = logs[right - 1].item(), logs[right].item()
    return Level(alpha, sigma, right - 1 + min(max((math.log(ratio) - low) / (high - low), 0.0), 1.0))
