"""WD and PO, FDM's metrics of generated drives: do the cars of the videos drive as fast as those of the data?

A point-speed is the way between two moments `gap` frames apart over the time between them. PO is the percentage of the
point-speeds of the made videos above `limit`, which no car of the data reaches: there the video jumps to another place. WD is
the 1-Wasserstein distance in m/s between the point-speeds of the made videos and of the data, without those outliers: one jump
across the town would weigh as much as hundreds of speeds that are wrong. `wd_all` is the distance with them.

The published code has neither. Paper (Harvey et al. 2022) and its page define them; that neighbouring point-speeds
overlap, and how an outlier is told, is settled here, so compare with published tables with care.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from evals.protocol import ratio_estimate

GROUPS = 20  # of videos left out in turn for an interval


@dataclass(frozen=True)
class SpeedConfig:
    gap: int = 10        # frames between the two moments of a point-speed
    fps: float = 10.0    # frames a second of the videos
    limit: float = 10.0  # m/s above which a point-speed is an outlier

    def __post_init__(self):
        for name in ("gap", "fps", "limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"speed.{name} must be above 0, got {getattr(self, name)}")


def point_speeds(coords: np.ndarray, cfg: SpeedConfig, given: Sequence[int] = ()) -> np.ndarray:
    """Return the speed from each frame to that `gap` later, in m/s: t 2 (metres) -> t - gap, or less.

    Args:
        given: frames that the model was given; the speed between two of them is none of its making, and is left out.
    """
    known = np.zeros(len(coords), bool)
    known[[i for i in given if i < len(coords)]] = True
    ways = np.linalg.norm(coords[cfg.gap:] - coords[:-cfg.gap], axis=1)
    return (ways * cfg.fps / cfg.gap)[~(known[cfg.gap:] & known[:-cfg.gap])]


class Speeds(NamedTuple):
    """Point-speeds of one video."""
    video: str  # the true video it belongs to
    values: np.ndarray


def compare_speeds(real: Sequence[Speeds], fake: Sequence[Speeds], cfg: SpeedConfig) -> dict[str, dict]:
    """Return {"wd", "wd_all", "po"}: mean, ci95 (half width), n (made videos), n_real.

    The interval of PO is the ratio estimator's over videos, those of WD are delete-a-group jackknifes over the videos of both
    sides (at most 20 groups, Student t).

    Raises:
        ValueError: no point-speed of a side is below the limit.
    """
    counts = {"n": len(fake), "n_real": len(real)}
    po, true_po = _outliers(fake, cfg.limit), _outliers(real, cfg.limit)
    distances = {}
    for name, limit in (("wd", cfg.limit), ("wd_all", math.inf)):
        sides = [[Speeds(s.video, s.values[s.values <= limit]) for s in side] for side in (real, fake)]
        value = distance(*sides)
        if value is None:
            raise ValueError(f"WD compares point-speeds up to speed.limit={cfg.limit:g} m/s, and one side has none: "
                             f"{true_po['mean']:.4g} % of the real ones and {po['mean']:.4g} % of the made ones are above; "
                             "check the coordinates, speed.gap and speed.fps, or raise speed.limit")
        distances[name] = {"mean": value, "ci95": jackknife(*sides), **counts}
    return {**distances, "po": {**po, **counts, "real": true_po["mean"]}}


def distance(real: Sequence[Speeds], fake: Sequence[Speeds]) -> float | None:
    """1-Wasserstein distance of all point-speeds together; None where a side has none."""
    from scipy.stats import wasserstein_distance  # its import takes a second

    pooled = [np.concatenate([s.values for s in side]) if side else np.empty(0) for side in (real, fake)]
    return float(wasserstein_distance(*pooled)) if all(map(len, pooled)) else None


def jackknife(real: Sequence[Speeds], fake: Sequence[Speeds]) -> float | None:
    """Half width of a 95 % interval of the distance; None where there are too few videos to leave any out."""
    groups = _groups({s.video for s in real}, {s.video for s in fake})
    count = max(groups.values()) + 1
    values = [distance(*([s for s in side if groups[s.video] != group] for side in (real, fake))) for group in range(count)]
    if count < 2 or None in values:
        return None
    error = math.sqrt((count - 1) / count * ((np.array(values) - np.mean(values)) ** 2).sum())
    return float(stdtrit(count - 1, 0.975)) * error


def _outliers(side: Sequence[Speeds], limit: float) -> dict:
    """Percentage above the limit; samples of one true video are not independent."""
    sums: dict[str, list[float]] = {}
    for video, values in side:
        total = sums.setdefault(video, [0.0, 0.0])
        total[0] += 100.0 * (values > limit).sum()
        total[1] += len(values)
    return ratio_estimate(*zip(*sums.values()))._asdict()


def _groups(real: set[str], fake: set[str]) -> Mapping[str, int]:
    """Deal the videos out to groups: those that both sides have, only one or only the other each evenly."""
    kinds = (sorted(real & fake), sorted(real - fake), sorted(fake - real))
    return {name: i % GROUPS for names in kinds for i, name in enumerate(names)}
