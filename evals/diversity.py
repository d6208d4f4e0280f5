"""How much several samples of one video differ from each other; the true video is not looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.protocol import METRICS, Estimate, ratio_estimate


@dataclass
class _Sums:
    """Samples of one video: from these two sums follow the squared differences of all their pairs, exactly."""
    count: int
    total: Tensor    # int32 t h w c: sum over the samples
    squares: Tensor  # int64 t: sum of squared pixels over samples and frame

    def add(self, other: _Sums) -> None:
        self.count += other.count
        self.total = self.total + other.total
        self.squares = self.squares + other.squares

    def spread(self) -> Tensor:
        """Unbiased variance over the samples, mean over the pixels of each frame: float64 t."""
        k, pixels = self.count, self.total[0].numel()
        around = k * self.squares.double() - self.total.double().square_().flatten(1).sum(1)
        return around / (k * (k - 1) * pixels)


@METRICS.register("diversity")
class Diversity:
    """Standard deviation of a pixel over the samples of a video, in grey levels: root mean square over pixels and frames,
    then mean over videos. Two samples differ by sqrt(2) times this. The state is four bytes a pixel of each true video."""
    higher_is_better = None  # a model may be too sure, or too wild

    def __init__(self):
        self._videos: dict[str, _Sums] = {}
        self._alone = 0

    def update(self, real: Tensor, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add the made videos of pairs, by the name of their true video; see Metric.update."""
        if videos is None:
            self._alone += len(fake)
            return
        for name, frames in zip(videos, fake.cpu(), strict=True):
            squares = frames.flatten(1).to(torch.int32).square_().sum(1, dtype=torch.int64)
            self._add(name, _Sums(1, frames.to(torch.int32), squares))

    def merge(self, other: Diversity) -> None:
        """Add the videos of another instance."""
        self._alone += other._alone
        for name, sums in other._videos.items():
            self._add(name, sums)

    def compute(self) -> dict:
        """Return mean, ci95 (Student t over videos), n (videos), per_frame, samples_per_video.

        Raises:
            ValueError: no video has several samples.
        """
        several = [self._videos[name] for name in sorted(self._videos) if self._videos[name].count > 1]
        if not several:
            count = self._alone + len(self._videos)
            raise ValueError(f"diversity needs several samples of a video, got {count} videos with one each; "
                             f"sample with --samples_per_video 2 or more, or leave diversity out of --metrics")
        spreads = [sums.spread() for sums in several]
        roots = [math.sqrt(float(s.mean())) for s in spreads]
        mean, ci95 = ratio_estimate(roots, [1] * len(roots))
        return {**Estimate(mean, ci95)._asdict(), "n": len(several), "per_frame": _per_frame(spreads),
                "samples_per_video": min(sums.count for sums in several)}

    def _add(self, name: str, sums: _Sums) -> None:
        if name not in self._videos:
            self._videos[name] = _Sums(sums.count, sums.total, sums.squares)
        elif self._videos[name].total.shape != sums.total.shape:
            raise ValueError(f"samples of {name} have sizes {tuple(sums.total.shape)} and "
                             f"{tuple(self._videos[name].total.shape)}; make them alike to compare them")
        else:
            self._videos[name].add(sums)


def _per_frame(spreads: Sequence[Tensor]) -> list[float]:
    length = max(len(s) for s in spreads)
    columns = [[math.sqrt(float(s[i])) for s in spreads if i < len(s)] for i in range(length)]
    return [math.fsum(column) / len(column) for column in columns]
