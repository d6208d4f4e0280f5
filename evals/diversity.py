"""How much several samples of one video differ from each other; the true video is not looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evals.lpips import LPIPS
from evals.protocol import METRICS, Estimate, ratio_estimate


@dataclass
class _Sums:
    """Samples of one video: from these two sums follow the squared differences of all their pairs."""
    count: int
    total: Tensor    # t ...: sum over the samples of what describes a frame
    squares: Tensor  # t: sum over samples and the numbers of a frame of their squares

    def add(self, other: _Sums) -> None:
        self.count += other.count
        self.total = self.total + other.total
        self.squares = self.squares + other.squares

    def apart(self) -> Tensor:
        """Squared distance of two samples in each frame, mean over all pairs: float64 t."""
        k = self.count
        around = k * self.squares.double() - self.total.double().square_().flatten(1).sum(1)
        return around.clamp_(min=0) / (k * (k - 1) / 2)


@METRICS.register("diversity")
class Diversity:
    """Standard deviation of a pixel over the samples of a video, in grey levels: root mean square over pixels and frames,
    then mean over videos. Two samples differ by sqrt(2) times this. The state is four bytes a pixel of each true video."""
    higher_is_better = None  # a model may be too sure, or too wild
    name = "diversity"

    def __init__(self):
        self._videos: dict[str, _Sums] = {}
        self._alone = 0

    def describe(self, frames: Tensor) -> _Sums:
        """The sums of one sample: uint8 t h w c."""
        frames = frames.cpu()
        return _Sums(1, frames.to(torch.int32), frames.flatten(1).to(torch.int32).square_().sum(1, dtype=torch.int64))

    def spread(self, sums: _Sums) -> Tensor:
        """What is averaged over the frames of a video: here the variance of a pixel, float64 t."""
        return sums.apart() / (2 * sums.total[0].numel())

    def told(self, mean: float) -> float:
        """What is reported of such an average."""
        return math.sqrt(mean)

    def settings(self) -> dict:
        """Return {"settings": all that decides the number beyond the metric's name}, or nothing."""
        return {}

    def update(self, real: Tensor, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add the made videos of pairs, by the name of their true video; see Metric.update."""
        if videos is None:
            self._alone += len(fake)
            return
        for name, frames in zip(videos, fake, strict=True):
            self._add(name, self.describe(frames))

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
            raise ValueError(f"{self.name} needs several samples of a video, got {count} videos with one each; "
                             f"sample with --samples_per_video 2 or more, or leave {self.name} out of --metrics")
        spreads = [self.spread(sums) for sums in several]
        values = [self.told(float(s.mean())) for s in spreads]
        mean, ci95 = ratio_estimate(values, [1] * len(values))
        return {**Estimate(mean, ci95)._asdict(), "n": len(several), "per_frame": self._per_frame(spreads),
                "samples_per_video": min(sums.count for sums in several), **self.settings()}

    def _add(self, name: str, sums: _Sums) -> None:
        if name not in self._videos:
            self._videos[name] = _Sums(sums.count, sums.total, sums.squares)
        elif self._videos[name].total.shape != sums.total.shape:
            raise ValueError(f"samples of {name} have sizes {tuple(sums.total.shape)} and "
                             f"{tuple(self._videos[name].total.shape)}; make them alike to compare them")
        else:
            self._videos[name].add(sums)

    def _per_frame(self, spreads: Sequence[Tensor]) -> list[float]:
        length = max(len(s) for s in spreads)
        columns = [[self.told(float(s[i])) for s in spreads if i < len(s)] for i in range(length)]
        return [math.fsum(column) / len(column) for column in columns]


@METRICS.register("diversity_lpips")
class PerceptualDiversity(Diversity):
    """LPIPS between two samples of a video, mean over all pairs of samples and over frames, then over videos. The distance is
    one of vectors, so sums of them say it all; the state is eight bytes a feature, 4 MB for 16 frames of 64x64.

    Args:
        net: "alex" or "vgg".
        size: see evals.lpips.LPIPS.
        path: see evals.lpips.load_lpips.
    """
    name = "diversity_lpips"

    def __init__(self, *, net: str = "alex", size: int | None = None, path: str | Path | None = None):
        super().__init__()
        self.net = LPIPS(net=net, size=size, path=path)

    def describe(self, frames: Tensor) -> _Sums:
        """The sums of one sample: uint8 t h w c."""
        with torch.inference_mode():
            vectors = torch.cat([self.net.vectors(piece) for piece in frames.split(self.net.at_once(*frames.shape[1:]))])
            return _Sums(1, vectors.double().cpu(), vectors.double().square().sum(1).cpu())

    def spread(self, sums: _Sums) -> Tensor:
        """The distance of two samples in each frame: float64 t."""
        return sums.apart()

    def told(self, mean: float) -> float:
        """The distance itself."""
        return mean

    def settings(self) -> dict:
        """Return the network and the size that it saw."""
        return self.net.settings()
