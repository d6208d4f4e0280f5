"""Which weights of a run are its best: by which metric, and what has been the best value so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tools.registry import nearest

PANEL = "panel/"  # begins the names of what is measured on samples, each loop.sample_every; the others: loop.validate_every


class Cadence(Protocol):
    """The part of LoopConfig that is read here."""
    best: str | None
    validate_every: int
    sample_every: int


@dataclass
class Best:
    """The best measurement so far."""
    value: float | None = None
    step: int = 0

    def update(self, value: float, mode: str, step: int) -> bool:
        """Take in a measurement and tell whether it is better than all before."""
        better = math.isfinite(value) and (
            self.value is None or (value > self.value if mode == "max" else value < self.value))
        if better:
            self.value, self.step = value, step
        return better


def best_metric(cfg: Cadence, modes: Mapping[str, str]) -> tuple[str, str]:
    """The metric that picks model_best.pth, and "max" or "min", which of its values is better.

    Args:
        modes: the metrics that may be chosen by loop.best, and what is better; the first is the default.
    """
    name = cfg.best or next(iter(modes))
    if name not in modes:
        raise ValueError(f'loop.best="{name}" is no metric of this training{nearest(name, modes)}; known: {", ".join(modes)}')
    if cfg.best and not measured_every(cfg, name):
        key = "sample_every" if name.startswith(PANEL) else "validate_every"
        raise ValueError(f"loop.best={name} is measured every loop.{key} updates, got loop.{key}=0 (never); set it above 0, or "
                         "leave loop.best out")
    return name, modes[name]


def measured_every(cfg: Cadence, name: str) -> int:
    """Updates from one measurement of a metric to the next; 0 = never."""
    return cfg.sample_every if name.startswith(PANEL) else cfg.validate_every
