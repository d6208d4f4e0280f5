"""How videos are completed: the options of VideoDiffusion.complete, checked before anything is made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from latent_diffusion.modelfile import DiffusionModel
from latent_diffusion.noise import mixed, tempered
from latent_diffusion.samplers import DEFAULT, DEFAULT_ON_TABLES, OWN_SPACING, OWN_STEPS
from latent_diffusion.schedule import Level, ScheduleConfig, sampling_levels
from latent_diffusion.schemes import Window
from tools.registry import nearest

Schedule = str | Path | Sequence[Window]


@dataclass(frozen=True)
class Settings:
    """Options of a completion.

    Every estimate of the network is pushed by `guidance` (away from what knows nothing, or from `guide`) and by
    `history_guidance`: full + w (full - weak) + h (part - nothing). So guidance = -history_guidance = w leads away from
    the thinned history, full + w (full - part).

    Args:
        sampler: name, or a mapping with the name and its options ({"name": "ddim", "eta": 1.0}); default: deis, or ddim for
            a model whose schedule is a table, as the published ones are (see docs/images/samplers.png).
        steps: of the sampler; "400/20" for the first clip that nothing precedes / each other; default: 20 of deis, else 50.
        seed: the same seed makes the same video, in any batch.
        guidance: w of (1 + w) eps(c) - w eps(0).
        guide: a weaker model in place of "knows nothing" (autoguidance); it serves models without a condition, too.
        interval: guide only where low <= sigma / alpha <= high; high = None has no bound.
        history_guidance: h of h (eps(part) - eps(0)), where part sees a share of the finished frames (Song et al. 2025).
        history_fraction: that share, its frames drawn once for each clip; 1 is the whole history. Default 0.5, with
            history_sigma 1.
        history_sigma: noise in what `part` sees, which hides its detail; for models trained with condition.history.
        history_noise: noise in the clips that were made, when the next ones look at them, so that their errors are not
            taken for detail; given frames stay clean. For models trained with condition.history.
        content: another model that makes the first clip, where nothing is known (VIDM's two stages).
        scheme, window, stride: how a long video is cut, in clips (see schemes.py); by default a window of 2, stride 1.
        schedule: the windows themselves, in clips, or a JSON file of them; `window` then is the most that one holds.
        overlap: frames that neighbouring clips share; default 1, 0 for models that do not see the clip itself.
        spacing: of the levels (see schedule.sampling_levels); default: what suits the sampler.
        temperature: deviation of the noise that a clip starts from.
        shared_noise: fraction of its variance that all clips of a video have in common.
        one_frame: of every clip after the first keep only its first new frame, and go on from there (MCVD).
        init_prev_t: start every clip but the first from the one before it, noised so far that this share of the
            sampler's steps is left (MCVD).
        carry: a finished clip keeps the latent that was sampled; False looks at its frames, decoded and encoded again.
        border: let made frames take detail from the given ones near them (see autoencoder/border.py).
        autocast: run the denoiser in bfloat16; the autoencoder stays in float32.

    Raises:
        ValueError: values out of range, or an option that the others leave without effect.
    """
    sampler: str | Mapping[str, Any] | None = None
    steps: str | None = None
    seed: int = 0
    guidance: float = 0.0
    guide: DiffusionModel | None = None
    interval: tuple[float, float | None] | None = None
    history_guidance: float = 0.0
    history_fraction: float | None = None
    history_sigma: float = 0.0
    history_noise: float = 0.0
    content: DiffusionModel | None = None
    scheme: str = "autoreg"
    window: int | None = None
    stride: int | None = None
    schedule: Schedule | None = None
    overlap: int | None = None
    spacing: str | None = None
    temperature: float = 1.0
    shared_noise: float = 0.0
    one_frame: bool = False
    init_prev_t: float | None = None
    carry: bool = True
    border: bool = True
    autocast: bool = False

    def __post_init__(self):
        tempered(torch.zeros(()), self.temperature)
        mixed(torch.zeros(()), torch.zeros(()), self.shared_noise)
        self._check_guidance()
        self._check_cut()
        if self.init_prev_t is not None and not 0 < self.init_prev_t < 1:
            raise ValueError(f"init_prev_t is a share of the sampler's steps, between 0 and 1, got {self.init_prev_t}; leave "
                             "it out to start every clip from noise")

    def _check_guidance(self) -> None:
        if self.guide is not None and not self.guidance:
            raise ValueError("a guide (--guide) has no effect without its weight; add --guidance W")
        for name, flag in (("guidance", "--guidance"), ("history_guidance", "guidance.history")):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} ({flag}) is a weight, got {getattr(self, name)}; give a number, 0 is none")
        if not 0 < self.fraction <= 1:
            raise ValueError("history_fraction (guidance.fraction) is the share of the finished frames that is seen, above 0 "
                             f"and up to 1, got {self.history_fraction}")
        for name, key in (("history_sigma", "guidance.sigma"), ("history_noise", "rollout.history_noise")):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} ({key}) is a level of noise, 0 to 1, got {getattr(self, name)}")
        if self.history_sigma and not self.history_guidance:
            raise ValueError("history_sigma (guidance.sigma) has no effect without history guidance; add guidance.history=W")
        if self.interval is None:
            return
        low, high = self.interval
        if not low >= 0 or (high is not None and not low < high):
            raise ValueError(f"the interval (guidance.low, guidance.high) needs 0 <= low < high in sigma / alpha, got {low} "
                             f"and {high}")
        if not self.guidance and not self.history_guidance:
            raise ValueError("an interval of guidance (guidance.low, guidance.high) has no effect without guidance; add "
                             "--guidance W")

    def _check_cut(self) -> None:
        if self.schedule is not None:
            if self.scheme != "autoreg":  # which is the default
                raise ValueError(f"--schedule {self.schedule} and --scheme {self.scheme} are two ways to cut a video; give one "
                                 "of them")
            if self.stride is not None:
                raise ValueError(f"--stride {self.stride} is for a scheme; a --schedule says itself what it makes, leave it "
                                 "out")
        if self.one_frame:
            others = {"schedule": self.schedule, "overlap": self.overlap, "window": self.window, "stride": self.stride,
                      "scheme": None if self.scheme == "autoreg" else self.scheme}
            for name, value in others.items():
                if value is not None:
                    raise ValueError(f"one frame at a time (rollout.one_frame) is a way to cut a video by itself, got --{name} "
                                     f"{value}; leave that out")

    @property
    def fraction(self) -> float:
        """The share of the finished frames that the weaker view of history guidance sees."""
        if self.history_fraction is None:
            return 1.0 if self.history_sigma else 0.5
        return self.history_fraction

    @property
    def sizes(self) -> dict[str, int]:
        """Window and stride of a scheme, in clips."""
        return {"window": 2 if self.window is None else self.window, "stride": 1 if self.stride is None else self.stride}

    def suited(self, schedule: ScheduleConfig) -> "Settings":
        """With the sampler and the steps that a model of this schedule takes where nothing is said."""
        default = DEFAULT_ON_TABLES if schedule.discrete else DEFAULT
        sampler = {"name": default} if self.sampler is None else self.sampler
        steps = OWN_STEPS.get(_name(sampler), "50") if self.steps is None else self.steps
        return replace(self, sampler=sampler, steps=steps)

    def step_counts(self) -> tuple[str, str]:
        """Sampler steps of a clip that nothing precedes, and of every other."""
        counts = self.steps.split("/")
        if len(counts) > 2 or not all(counts):
            raise ValueError(f"steps={self.steps!r} is no number of steps; use 50, or 400/20 (first clip / each other)")
        return counts[0], counts[-1]

    def levels(self, schedule: ScheduleConfig, count: str) -> list[Level]:
        """The levels of a clip that takes `count` steps; "10,20,30" and the like name theirs themselves."""
        suited = OWN_SPACING.get(_name(self.sampler), "uniform") if count.strip().isdecimal() else "uniform"
        return sampling_levels(schedule, count, suited if self.spacing is None else self.spacing)

    def last_steps(self, levels: list[Level]) -> list[Level]:
        """The levels of a clip that starts from the one before it."""
        steps = len(levels) - 1
        left = max(1, round(self.init_prev_t * steps))
        if left == steps:
            raise ValueError(f"init_prev_t={self.init_prev_t} leaves all {steps} steps, so nothing of the clip before would be "
                             "kept; use more --steps, or a lower value")
        return levels[steps - left:]


def _name(sampler: str | Mapping[str, Any]) -> str | None:
    return sampler if isinstance(sampler, str) else sampler.get("name")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no field of Settings."""
    valid = [field.name for field in fields(Settings)]
    for name in options:
        if name not in valid:
            raise TypeError(f'there is no option "{name}"{nearest(name, valid)}; known: {", ".join(valid)}')
