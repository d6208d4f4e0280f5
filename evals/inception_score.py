"""Video inception score (Salimans et al. 2016, with C3D on UCF-101 since Saito et al. 2017).

exp of the mean divergence between the classes of one made video and those of all: it looks at the made videos alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from evals.c3d import load_c3d
from evals.protocol import METRICS, ratio_estimate

SPLITS, ENOUGH = 10, 2048


@METRICS.register("inception_score")
class InceptionScore:
    """Mean over ten parts of the videos, which are dealt out by a hash of their pixels.

    Args:
        path: weights (`evals.c3d.load_c3d`); by default the named ones, "c3d".
    """
    higher_is_better = True

    def __init__(self, *, path: str | Path | None = None):
        self.net = load_c3d(path)
        self._rows: list[tuple[bytes, np.ndarray]] = []  # (hash of the video, probabilities)

    def update(self, real: Tensor, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add the made videos of pairs; see Metric.update."""
        self.update_fake(fake, videos)

    def update_fake(self, fake: Tensor, videos: Sequence[str] | None = None) -> None:
        """Add made videos, uint8 b t h w c, of any number; nothing else is looked at."""
        hashes = [hashlib.blake2b(video.tobytes(), digest_size=16).digest() for video in fake.cpu().numpy()]
        self._rows += zip(hashes, self.net.probabilities(fake).cpu().numpy())

    def merge(self, other: InceptionScore) -> None:
        """Add the videos of another instance."""
        self._rows += other._rows

    def compute(self) -> dict:
        """Return mean and std over the parts, ci95 (Student t over the parts), n, splits, settings, warnings."""
        assert self._rows, "compute() before update()"
        rows = np.stack([row for _, row in sorted(self._rows, key=lambda item: item[0])])
        n = len(rows)
        splits = max(1, min(SPLITS, n // 2))  # a part of one video scores 1 whatever it shows
        scores = [score(rows[i * n // splits:(i + 1) * n // splits]) for i in range(splits)]
        mean, ci95 = ratio_estimate(scores, [1] * splits)
        warnings = [] if n >= ENOUGH else [f"{n} videos in {splits} parts: no part can score more than its number of videos "
                                           f"({-(-n // splits)}); published scores are of {ENOUGH} to 10000"]
        return {"mean": mean, "ci95": ci95, "std": float(np.std(scores)), "n": n, "splits": splits,
                "settings": self.net.settings, "warnings": warnings}


def score(probabilities: np.ndarray) -> float:
    """Return exp(mean_i KL(p_i | mean p)) of n classes."""
    p = np.asarray(probabilities, np.float64)
    tiny = np.finfo(np.float64).tiny  # 0 log 0 = 0
    return float(np.exp((p * (np.log(p + tiny) - np.log(p.mean(0) + tiny))).sum(1).mean()))
