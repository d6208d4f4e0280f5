"""Whether the metrics say what they must of videos of which the answer is known (`--exp evaluate --selfcheck`)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from evals.fvd import FVD
from evals.i3d import LEAST_FRAMES
from evals.pairs import open_set
from evals.protocol import METRICS
from evals.request import check_out
from tools.files import write_text
from tools.shapes import Shapes
from tools.weights import present

BLACK_AND_WHITE = 151.26  # FVD of black videos and as many white ones, 30 frames of 64x64, by I3D's published weights
MOST = 8  # true videos that are looked at


class Check(NamedTuple):
    """A number, and what it must be."""
    name: str
    wanted: float
    got: float | None   # None: not done
    within: float = 0.0
    why: str = ""       # it was not done

    @property
    def state(self) -> str:
        """passed, failed or skipped."""
        if self.got is None:
            return "skipped"
        return "passed" if abs(self.got - self.wanted) <= self.within else "failed"  # nan fails


def run(*, real: str | None, i3d: str | os.PathLike | None, out: str | None, device: torch.device | str) -> None:
    """Print a line a check, write them to `out`, and exit with status 1 if one failed."""
    check_out(out)
    rows = []
    for row in checks(real, i3d, device):
        got = "" if row.got is None else f": {row.got:.6g}, wanted {row.wanted:.6g} +- {row.within:.2g}"
        print(f"{row.state:8}{row.name}{got}{' (' + row.why + ')' if row.why else ''}", flush=True)
        rows.append(row)
    failed = [row.name for row in rows if row.state == "failed"]
    if out:
        record = {"selfcheck": [row._asdict() | {"state": row.state} for row in rows], "passed": not failed}
        write_text(out, json.dumps(record, indent=2, default=str).replace("NaN", "null") + "\n")
    if failed:
        raise SystemExit(1)


def checks(real: str | None = None, i3d: str | os.PathLike | None = None,
           device: torch.device | str = "cpu") -> Iterator[Check]:
    """Make all checks.

    Args:
        real: true videos to look at; by default generated ones.
        i3d: weights for fvd; by default those of the name, where they are here.
    """
    videos = [torch.from_numpy(frames)[None].to(device) for frames in _videos(real)]
    for name, same in (("psnr", 100.0), ("psnr_pooled", 100.0), ("mse", 0.0), ("ssim", 1.0)):
        yield Check(f"{name} of a video and itself", same, _mean(name, videos, videos), 1e-6)
    dark = [video.clamp(max=250) for video in videos]
    yield Check("psnr of a video and one that is 5 levels brighter", 20 * math.log10(255 / 5),
                _mean("psnr", dark, [video + 5 for video in dark]), 1e-6)
    yield Check("psnr in two parts and in one", _mean("psnr", dark, [v.flip(2) for v in dark]),
                _mean("psnr", dark, [v.flip(2) for v in dark], parts=2), 1e-9)
    if present("lpips-alex"):
        yield Check("lpips of a video and itself", 0.0, _mean("lpips", videos, videos), 1e-6)
    else:
        yield Check("lpips of a video and itself", 0.0, None, why="the weights lpips-alex are not here")
    yield from _of_fvd(videos, i3d, device)


def _of_fvd(videos: list[torch.Tensor], i3d: str | os.PathLike | None, device: torch.device | str) -> Iterator[Check]:
    same, apart = "fvd of the true videos and themselves", "fvd of black and white videos"
    if not i3d and not present("i3d"):
        why = "the weights i3d are not here; give --i3d FILE"
        yield from (Check(same, 0.0, None, why=why), Check(apart, BLACK_AND_WHITE, None, why=why))
        return
    metric = FVD(path=i3d)
    long = [video for video in videos if video.shape[1] >= LEAST_FRAMES]
    if len(long) < 2:
        yield Check(same, 0.0, None, why=f"fewer than two of them have {LEAST_FRAMES} frames")
    else:
        for number, video in enumerate(tqdm(long, desc="fvd", unit="video", delay=1, leave=False)):
            metric.update(video, video, [str(number)])
        yield Check(same, 0.0, metric.compute()["mean"], 1e-3)
    metric = FVD(path=i3d)
    black = torch.zeros(2, 30, 64, 64, 3, dtype=torch.uint8, device=device)  # two a side say what any number of copies would
    metric.update_real(black, ["0", "1"])
    metric.update_fake(255 - black, ["0", "1"])
    yield Check(apart, BLACK_AND_WHITE, metric.compute()["mean"], 0.5)


def _videos(real: str | None) -> list[np.ndarray]:
    if real is None:
        source = Shapes(size=64, length=16, count=4)
        return [source.read(i) for i in range(len(source))]
    return [entry.read(0, min(16, entry.num_frames())) for entry in open_set(real, "real").entries[:MOST]]


def _mean(name: str, real: list[torch.Tensor], fake: list[torch.Tensor], *, parts: int = 1) -> float:
    metrics: list[Any] = [METRICS.get(name)() for _ in range(parts)]
    for i in range(len(real)):
        metrics[i % parts].update(real[i], fake[i], [str(i)])
    for other in metrics[1:]:
        metrics[0].merge(other)
    return metrics[0].compute()["mean"]
