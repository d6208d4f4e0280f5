"""What a metric is: statistics that add up, so that batch size, order and process count cannot bias the number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from tools.registry import Registry

METRICS = Registry("metric")


SAMPLES = ("mean", "best")  # how several samples of one video count: all alike, or the best alone


class Metric(Protocol):
    """A running comparison of pairs of videos.

    Attributes:
        higher_is_better: which way is up; None where neither is.
    """
    higher_is_better: bool | None

    def update(self, real: Tensor, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add pairs.

        Args:
            real: uint8 b t h w c.
            fake: the same shape.
            videos: for each pair the real video it belongs to, so that several samples of one video are not
                taken for independent ones in the confidence interval; None means all different.
        """

    def merge(self, other: Metric) -> None:
        """Add the pairs that another instance has seen."""

    def compute(self) -> dict:
        """Return {"mean", "ci95" (half width over videos; None for a single video), "n" (pairs), ...}."""


Row = tuple[str | None, np.ndarray]  # real video, score of each frame: t


class Estimate(NamedTuple):
    mean: float
    ci95: float | None  # half width; None where one video says nothing about the spread


def ratio_estimate(sums: Sequence[float], counts: Sequence[float]) -> Estimate:
    """Estimate sum(sums) / sum(counts) over independent videos, with a Student-t 95 % interval.

    The standard error is the ratio estimator's (Cochran, Sampling Techniques, eq. 6.13): for equal counts it is
    the usual s / sqrt(k), and videos with more samples or frames weigh more.

    Args:
        sums: for each video the sum of its values.
        counts: for each video how many values that are.
    """
    k, total = len(sums), math.fsum(counts)
    mean = math.fsum(sums) / total
    if k < 2:
        return Estimate(mean, None)
    spread = math.fsum((s - mean * c) ** 2 for s, c in zip(sums, counts))
    error = math.sqrt(spread * k / (k - 1)) / total
    return Estimate(mean, float(stdtrit(k - 1, 0.975)) * error)


class FrameMetric(ABC):
    """Base of metrics that give every frame a number: mean over frames, then over videos.

    Of several samples of one video the best is chosen by this metric alone, as published protocols do (best of K).

    The state is the numbers themselves (t float64 a pair), summed exactly (fsum): any batch size, order and
    split over processes gives the same result.
    """

    higher_is_better: ClassVar[bool] = True

    def __init__(self):
        self._rows: list[Row] = []

    @abstractmethod
    def score(self, seen: Any, fake: Tensor) -> Tensor:
        """Compare k samples of true frames: what `see` returned of these, and uint8 k n h w c -> float64 k n."""

    def see(self, real: Tensor) -> Any:
        """What `score` needs of true frames, uint8 n h w c; computed once for all samples of them."""
        return real

    def at_once(self, h: int, w: int, c: int) -> int:
        """Frames of a piece: few enough to stay near the cache, and that long videos need no more memory."""
        return max(1, (1 << 18) // (h * w * c))

    def update(self, real: Tensor, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add pairs of videos; see Metric.update. A video is compared piece by piece and by itself, and with one true video
        for all of its samples that follow each other: other videos of a batch cannot touch a bit of its numbers."""
        assert real.shape == fake.shape and real.ndim == 5, f"wanted b t h w c twice, got {real.shape}, {fake.shape}"
        b, t, h, w, c = real.shape
        assert b * t, f"nothing to compare in {tuple(real.shape)}"
        assert videos is None or len(videos) == b, f"{len(videos)} names for {b} pairs"
        names = [None] * b if videos is None else videos
        count = -(-t // self.at_once(h, w, c))  # pieces, as even as can be
        edges = [round(i * t / count) for i in range(count + 1)]
        with torch.inference_mode():
            scores = torch.empty(b, t, dtype=torch.float64)
            for same in samples_of_one(real, names):
                samples = slice(same[0], same[-1] + 1) if len(same) == same[-1] + 1 - same[0] else same  # a view if it can
                for piece in map(slice, edges, edges[1:]):
                    scores[samples, piece] = self.score(self.see(real[same[0], piece]), fake[samples, piece]).to("cpu")
        self._rows += zip(names, scores.numpy())

    def merge(self, other: FrameMetric) -> None:
        """Add the pairs of another instance."""
        assert type(other) is type(self), f"cannot merge {type(other).__name__} into {type(self).__name__}"
        self._rows += other._rows

    def compute(self, *, samples: str = "mean") -> dict:
        """Return mean, ci95, n, and `per_frame`, the mean at each frame position; with several samples of a video also
        `best_of_k`: the same of the best sample of each, and k.

        Args:
            samples: what the headline is where there are several samples of a video: "mean" of all, or "best".
        """
        assert self._rows, "compute() before update()"
        if samples not in SAMPLES:
            raise ValueError(f'samples must be one of {", ".join(SAMPLES)}, got "{samples}"')
        result = {"n": len(self._rows), **self.settings()}
        counts = Counter(video for video, _ in self._rows if video is not None)
        if max(counts.values(), default=1) > 1:
            best = self._summary(self._best())
            result["best_of_k"] = {**best, "k": min(counts.values())}
            if samples == "best":
                return {**best, **result}
        return {**self._summary(self._rows), **result}

    def settings(self) -> dict:
        """Return {"settings": all that decides the number beyond the metric's name}, or nothing."""
        return {}

    def value(self, row: np.ndarray) -> float:
        """Return the score of one video from that of its frames."""
        return math.fsum(row) / len(row)

    def estimate(self, rows: Sequence[Row]) -> Estimate:
        """Return the score of all videos from that of their frames."""
        return ratio_estimate(*self._by_video([(video, self.value(row), 1) for video, row in rows]))

    def position(self, column: Sequence[float]) -> float:
        """Return the score at one frame position from that of the videos."""
        return math.fsum(column) / len(column)

    def _summary(self, rows: Sequence[Row]) -> dict:
        length = max(len(row) for _, row in rows)
        columns = ([row[i] for _, row in rows if i < len(row)] for i in range(length))
        return {**self.estimate(rows)._asdict(), "per_frame": [self.position(column) for column in columns]}

    def _best(self) -> list[Row]:
        """The best sample of each video."""
        sign = 1 if self.higher_is_better else -1
        best: dict = {}
        for number, (video, row) in enumerate(self._rows):
            name, score = number if video is None else video, sign * self.value(row)
            if name not in best or score > best[name][0]:
                best[name] = (score, (video, row))
        return [row for _, row in best.values()]

    @staticmethod
    def _by_video(rows: Sequence[tuple[str | None, float, float]]) -> tuple[list[float], list[float]]:
        """Gather (video, sum, count) into sums and counts, one of each a video."""
        gathered: dict = {}
        for number, (video, value, count) in enumerate(rows):
            values, counts = gathered.setdefault(number if video is None else video, ([], []))
            values.append(value)
            counts.append(count)
        return [math.fsum(v) for v, _ in gathered.values()], [math.fsum(c) for _, c in gathered.values()]


def samples_of_one(real: Tensor, names: Sequence[str | None]) -> Iterator[list[int]]:
    """Which pairs share a true video: of those with one name that follow each other, the ones where it is the same.

    Args:
        real: b t h w c.
        names: of the true videos; None shares with nothing.
    """
    flat = real.flatten(1).contiguous()
    if flat.shape[1] % 8 == 0:  # eight pixels are compared at once
        flat = flat.view(torch.int64)
    for _, run in groupby(range(len(names)), key=lambda i: i if names[i] is None else names[i]):
        rest = list(run)
        while rest:
            same = [i for i in rest if i == rest[0] or torch.equal(flat[i], flat[rest[0]])]
            rest = [i for i in rest if i not in same]
            yield same
