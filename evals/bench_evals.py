"""How fast the metrics are beside the loop that they stand for: scikit-image and lpips, frame by frame (`--exp bench`)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evals.lpips import LPIPS
from evals.protocol import FrameMetric
from evals.psnr import PSNR
from evals.ssim import SSIM
from tools.speed import count_flops


class Case(NamedTuple):
    """Videos to compare: true ones, frames of each, height and width, made ones of each."""
    videos: int
    frames: int
    size: int
    samples: int


CASES = {"best_of_10_64px": Case(1, 16, 64, 10),  # what MCVD's protocol asks for
         "one_256px": Case(1, 4, 256, 1)}         # a sample each, at the size of most published results

SIDE = 1024             # of the matrices whose product stands for the machine's limit
ENOUGH, MOST = 1.0, 50  # seconds, and turns
TURN = 0.2              # seconds: an evaluation goes on for long, so caches are warm most of the time


def measure(*, cases: Mapping[str, Case] = CASES, repeats: int = 3, backbone: str | Path | None = None) -> dict[str, Any]:
    """Compare moving noise with a noisier copy, by the metrics and by the loop, on one core and by turns.

    Args:
        cases: by name.
        repeats: the least time of so many runs counts, or of as many as take a second.
        backbone: AlexNet for LPIPS; one that is drawn takes as long, so none is needed.

    Returns:
        {case: {metric: {"seconds", "loop_seconds" (processor time a frame), "speedup", "difference" (largest, of a frame)}}},
        the metrics psnr, ssim, lpips and, without difference, "all", the three together. Those with products or convolutions
        say also "gflop" (theirs, of a frame), "matmul_gflops" (the rate of a matrix product in between) and "speedup_limit"
        (the loop's time over that of these operations at this rate: no code that makes them is faster).

    Raises:
        ValueError: scikit-image, which only the loop needs, is not installed.
    """
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError:
        raise ValueError('bench evals compares with scikit-image, which is not installed; run pip install -e ".[test]", '
                         'or leave evals out of --only') from None
    metrics = {"psnr": PSNR(), "ssim": SSIM(), "lpips": _lpips(backbone)}
    net = metrics["lpips"].model

    def distance(r: np.ndarray, f: np.ndarray) -> float:
        with torch.inference_mode():
            return float(net(*(torch.from_numpy(v).permute(2, 0, 1)[None].float() / 127.5 - 1 for v in (r, f))))

    loops = {"psnr": lambda r, f: peak_signal_noise_ratio(r, f, data_range=255),
             "ssim": lambda r, f: structural_similarity(r, f, gaussian_weights=True, sigma=1.5, data_range=255,
                                                        use_sample_covariance=False, channel_axis=-1),
             "lpips": distance}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = {key: {name: _by_turns(metric, loops[name], case, repeats) for name, metric in metrics.items()}
                   for key, case in cases.items()}
    finally:
        torch.set_num_threads(threads)
    for result in results.values():
        total, loop = (sum(part[key] for part in result.values()) for key in ("seconds", "loop_seconds"))
        result["all"] = {"seconds": total, "loop_seconds": loop, "speedup": loop / total}
    return results


def _by_turns(metric: FrameMetric, score: Callable[[np.ndarray, np.ndarray], float], case: Case,
              repeats: int) -> dict[str, float]:
    real, fake, names = _videos(*case)
    _ours(metric, real, fake, names)  # weights are transformed once
    flops, ours = count_flops(lambda: _ours(metric, real, fake, names))
    theirs, matrix, times = _loop(score, real, fake), torch.ones(SIDE, SIDE), []
    runs = (lambda: _ours(metric, real, fake, names), lambda: _loop(score, real, fake), lambda: matrix @ matrix)
    while len(times) < repeats or (sum(map(sum, times)) < ENOUGH and len(times) < MOST):
        times.append([_seconds(run) for run in runs])
    seconds, loop_seconds, product = map(min, zip(*times))
    found = {"seconds": seconds / ours.size, "loop_seconds": loop_seconds / ours.size, "speedup": loop_seconds / seconds,
             "difference": float(np.abs(ours - theirs).max())}
    if flops:
        rate = 2 * SIDE ** 3 / product
        found |= {"gflop": flops / 1e9 / ours.size, "matmul_gflops": rate / 1e9, "speedup_limit": loop_seconds * rate / flops}
    return found


def _videos(videos: int, frames: int, size: int, samples: int) -> tuple[Tensor, Tensor, list[str]]:
    """True and made videos, uint8 b t h w 3, and the name of the true one of each pair."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (videos, frames, size, size, 3), generator=draw, dtype=torch.uint8)
    real = truth.repeat_interleave(samples, 0)
    noise = torch.randint(-40, 41, real.shape, generator=draw)
    return real, (real + noise).clamp_(0, 255).byte(), [str(i // samples) for i in range(len(real))]


def _lpips(backbone: str | Path | None) -> LPIPS:
    if backbone is not None:
        return LPIPS(path=backbone)
    from torchvision.models import alexnet

    from tools.checkpoint import save
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(0)
        save(Path(folder) / "alexnet.pth", {k: v for k, v in alexnet().state_dict().items() if k.startswith("features.")})
        return LPIPS(path=Path(folder) / "alexnet.pth")


def _ours(metric: FrameMetric, real: Tensor, fake: Tensor, names: list[str]) -> np.ndarray:  # b t
    start = len(metric._rows)
    metric.update(real, fake, names)
    return np.stack([row for _, row in metric._rows[start:]])


def _loop(score: Callable[[np.ndarray, np.ndarray], float], real: Tensor, fake: Tensor) -> np.ndarray:  # b t
    return np.array([[score(r, f) for r, f in zip(*pair)] for pair in zip(real.numpy(), fake.numpy())])


def _seconds(run: Callable[[], Any]) -> float:
    """Processor time of a call in this thread, which other programs do not count in: the mean of as many as take TURN."""
    begin, calls = time.thread_time(), 0
    while calls == 0 or time.thread_time() - begin < TURN:
        run()
        calls += 1
    return (time.thread_time() - begin) / calls
