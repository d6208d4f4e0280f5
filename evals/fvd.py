"""Frechet distance between the features of true and made videos (FVD: Unterthiner et al. 2018).

The number is the pooled one: every true video once, every made one. Its interval is a delete-a-group jackknife over
videos (Busing, Meijer and van der Leeden 1999, equal groups): a bootstrap would repeat videos, and repeats raise an FVD.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

from evals.features import FeatureNet
from evals.frechet import GaussianStats, chance_distance, frechet_distance
from evals.i3d import load_i3d
from evals.protocol import METRICS, Estimate, ratio_estimate
from evals.videomae import load_videomae

ENOUGH = 2048  # videos a side, as in the published protocols
GROUPS = 20    # of videos left out in turn for the interval


class Row(NamedTuple):
    """One video."""
    digest: str           # of its pixels: tells copies, and orders rows alike whatever the order they came in
    video: str            # name of the true video it belongs to
    features: np.ndarray  # float32 d
    still: bool           # all its frames are equal


class FrechetVideoDistance:
    """A running FVD. Features are kept (1.6 KB a video), for they tell the interval, the trajectories and the copies.

    Args:
        net: what describes the videos.
        ddof: covariances divide by n - ddof: 1 is unbiased, 0 is what the styleganv protocols do.
    """
    higher_is_better = False

    def __init__(self, net: FeatureNet, *, ddof: int = 1):
        self.net, self.ddof = net, ddof
        self._real: list[Row] = []
        self._fake: list[Row] = []
        self._named: set[tuple[str, str]] = set()  # true videos with names that are in: each counts once, whatever its samples

    def update(self, real: Tensor, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add pairs; see Metric.update. True videos of one name are taken for one."""
        assert len(real) == len(fake), f"{len(real)} true and {len(fake)} made videos are no pairs"
        self.update_real(real, videos)
        self.update_fake(fake, _digests(real) if videos is None else videos)

    def update_real(self, frames: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add true videos, uint8 b t h w c, of any number; one that is in already under its name is passed over."""
        digests = _digests(frames)
        if videos is not None:
            keys = list(zip(videos, digests, strict=True))
            fresh = [i for i, key in enumerate(keys) if key not in self._named and keys.index(key) == i]
            self._named.update(keys)
            frames, videos, digests = frames[fresh], [videos[i] for i in fresh], [digests[i] for i in fresh]
        self._real += self._rows(frames, videos, digests)

    def update_fake(self, frames: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add made videos, uint8 b t h w c, of any number, with the names of their true videos if they have any."""
        self._fake += self._rows(frames, videos, _digests(frames))

    @property
    def real_rows(self) -> list[Row]:
        """The true videos as they are kept, for whoever stores them (`evals.real_stats`)."""
        return list(self._real)

    def restore_real(self, rows: Sequence[Row]) -> None:
        """Add true videos that were looked at before, by the same network."""
        fresh = [row for row in rows if (row.video, row.digest) not in self._named]
        self._named |= {(row.video, row.digest) for row in fresh}
        self._real += fresh

    def merge(self, other: FrechetVideoDistance) -> None:
        """Add the videos of another instance."""
        self._real += [row for row in other._real if (row.video, row.digest) not in self._named]
        self._named |= other._named
        self._fake += other._fake

    def compute(self) -> dict:
        """Return mean (the pooled FVD), ci95, n and n_real, by_chance (what a perfect model would score with so few
        videos), trajectories (mean, std, ci95, k of the FVD of the first, second, ... samples), settings, warnings."""
        real, fake = (sorted(rows, key=lambda row: row[:2]) for rows in (self._real, self._fake))
        for side, rows in (("true", real), ("made", fake)):
            if len(rows) < 2:
                raise ValueError(f"fvd compares sets of videos, but got {len(rows)} {side} video(s); "
                                 f"give more (the protocols take {ENOUGH}), or leave fvd out of --metrics")
        value = self._distance(real, fake)
        chance = chance_distance(_stats(real), len(real), len(fake))
        return {"mean": value, "ci95": self._interval(real, fake), "n": len(fake), "n_real": len(real), "by_chance": chance,
                "interval": f"delete-a-group jackknife over videos, at most {GROUPS} groups, Student t",
                **self._trajectories(real, fake), "settings": {**self.net.settings, "ddof": self.ddof},
                "warnings": self._warnings(real, fake, chance)}

    def _rows(self, frames: Tensor, videos: Sequence[str] | None, digests: list[str]) -> list[Row]:
        if not len(frames):
            return []
        still = (frames == frames[:, :1]).flatten(1).all(1).tolist()
        features = self.net.features(frames).cpu().numpy().astype(np.float32, copy=False)
        return [Row(*row) for row in zip(digests, digests if videos is None else videos, features, still, strict=True)]

    def _distance(self, real: Sequence[Row], fake: Sequence[Row]) -> float:
        return frechet_distance(_stats(real), _stats(fake), ddof=self.ddof)

    def _interval(self, real: Sequence[Row], fake: Sequence[Row]) -> float | None:
        """Half width: leave out one group of videos, true and made together, at a time."""
        groups = _groups({row.video for row in real}, {row.video for row in fake})
        sides = [[_stats(part) if part else GaussianStats(self.net.dim) for part in _split(rows, groups)]
                 for rows in (real, fake)]
        values = []
        for left_out in range(max(groups.values()) + 1):
            rest = [_merged(s for g, s in enumerate(parts) if g != left_out) for parts in sides]
            if min(s.n for s in rest) < 2:
                return None  # too few videos to leave any out
            values.append(frechet_distance(*rest, ddof=self.ddof))
        g = len(values)
        if g < 2:
            return None
        error = math.sqrt((g - 1) / g * ((np.array(values) - np.mean(values)) ** 2).sum())
        return float(stdtrit(g - 1, 0.975)) * error

    def _trajectories(self, real: Sequence[Row], fake: Sequence[Row]) -> dict:
        """The FVD of one sample of each video at a time; samples are exchangeable, so which is the first does not matter."""
        samples = defaultdict(list)
        for row in fake:
            samples[row.video].append(row)
        k = min(len(rows) for rows in samples.values())
        if k < 2 or len(samples) < 2:
            return {}
        values = [self._distance(real, [rows[i] for rows in samples.values()]) for i in range(k)]
        mean, ci95 = ratio_estimate(values, [1] * k)
        return {"trajectories": {"mean": mean, "std": float(np.std(values, ddof=1)), "ci95": ci95, "k": k}}

    def _warnings(self, real: Sequence[Row], fake: Sequence[Row], chance: float) -> list[str]:
        found, dim, least = [], self.net.dim, min(len(real), len(fake))
        if least < ENOUGH:
            rank = f", and fewer than {dim + 1} leave covariances without full rank" if least <= dim else ""
            found.append(f"{len(real)} true and {len(fake)} made videos: a perfect model would score "
                         f"{'at least' if least <= dim else 'about'} {chance:.4g} by chance{rank}; compare only with numbers "
                         f"from as many videos (published ones: {ENOUGH} a side)")
        for side, rows in (("true", real), ("made", fake)):
            if still := sum(row.still for row in rows):
                found.append(f"{still} of {len(rows)} {side} videos do not move")
            if copies := len(rows) - len({row.digest for row in rows}):
                found.append(f"{copies} of {len(rows)} {side} videos are copies of another one")
        true = {row.digest for row in real}
        if equal := sum(row.digest in true for row in fake):
            found.append(f"{equal} of {len(fake)} made videos equal a true one")
        return found


@METRICS.register("fvd")
class FVD(FrechetVideoDistance):
    """FVD with I3D's 400 logits.

    Args:
        path: weights (`evals.i3d.load_i3d`); by default the named ones, "i3d".
        ddof: see FrechetVideoDistance.
    """

    def __init__(self, *, path: str | Path | None = None, ddof: int = 1):
        super().__init__(load_i3d(path), ddof=ddof)


@METRICS.register("fvd_videomae")
class VideoMAEFVD(FrechetVideoDistance):
    """FVD with VideoMAE-v2 features, which heed motion more and content less (Ge et al. 2024).

    Args:
        path: weights (`evals.videomae.load_videomae`); by default the named ones, "videomae".
        ddof: see FrechetVideoDistance.
    """

    def __init__(self, *, path: str | Path | None = None, ddof: int = 1):
        super().__init__(load_videomae(path), ddof=ddof)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and Student-t interval of a number that was measured with several seeds."""
    return ratio_estimate(values, [1] * len(values))


def _stats(rows: Sequence[Row]) -> GaussianStats:
    stats = GaussianStats(len(rows[0].features))
    stats.update(np.stack([row.features for row in rows]))
    return stats


def _merged(parts: Iterable[GaussianStats]) -> GaussianStats:
    first, *rest = parts
    total = GaussianStats(first.dim)
    for part in (first, *rest):
        total.merge(part)
    return total


def _groups(real: set[str], fake: set[str]) -> dict[str, int]:
    """Deal the videos out to groups, those that both sides have, only one or only the other each evenly."""
    order = {name: hashlib.blake2b(name.encode(), digest_size=8).digest() for name in real | fake}
    kinds = [sorted(names, key=order.get) for names in (real & fake, real - fake, fake - real)]
    dealt = [name for names in kinds for name in names]
    count = min(GROUPS, max(len(names) for names in kinds))
    return {name: i % count for i, name in enumerate(dealt)}


def _split(rows: Sequence[Row], groups: dict[str, int]) -> list[list[Row]]:
    parts: list[list[Row]] = [[] for _ in range(max(groups.values()) + 1)]
    for row in rows:
        parts[groups[row.video]].append(row)
    return parts



def _digests(frames: Tensor) -> list[str]:
    """A name for each video by its pixels: uint8 b t h w c -> b."""
    return [hashlib.blake2b(video.tobytes(), digest_size=16).hexdigest() for video in frames.cpu().numpy()]
