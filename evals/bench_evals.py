"""How fast the metrics are beside the loop that they stand for: scikit-image and lpips, frame by frame (`--exp bench`)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from evals.lpips import LPIPS
from evals.protocol import FrameMetric
from evals.psnr import PSNR
from evals.ssim import SSIM


def measure(*, videos: int = 2, frames: int = 16, size: int = 64, samples: int = 1, repeats: int = 3,
            backbone: str | Path | None = None) -> dict:
    """Compare moving noise with a noisier copy, by the metrics and by the loop, on one core each.

    Args:
        videos: true videos.
        frames: frames of each.
        size: height and width.
        samples: made videos of each true one.
        repeats: the least time of so many runs counts.
        backbone: AlexNet for LPIPS; one that is drawn takes as long, so none is needed.

    Returns:
        {name: {"seconds", "loop_seconds" (processor time a frame), "speedup", "difference" (largest, of a frame)}} for
        psnr, ssim, lpips and, without difference, "all", the three together.

    Raises:
        ValueError: scikit-image, which only the loop needs, is not installed.
    """
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError:
        raise ValueError('bench evals compares with scikit-image, which is not installed; run pip install -e ".[test]", '
                         'or leave evals out of --only') from None
    real, fake, names = _videos(videos, frames, size, samples)
    metrics = {"psnr": PSNR(), "ssim": SSIM(), "lpips": _lpips(backbone)}
    net = metrics["lpips"].model

    def distance(r: np.ndarray, f: np.ndarray) -> float:
        with torch.inference_mode():
            return float(net(*(torch.from_numpy(v).permute(2, 0, 1)[None].float() / 127.5 - 1 for v in (r, f))))

    loops = {"psnr": lambda r, f: peak_signal_noise_ratio(r, f, data_range=255),
             "ssim": lambda r, f: structural_similarity(r, f, gaussian_weights=True, sigma=1.5, data_range=255,
                                                        use_sample_covariance=False, channel_axis=-1),
             "lpips": distance}
    threads, results = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        for name, metric in metrics.items():
            seconds, ours = _least(repeats, lambda m=metric: _ours(m, real, fake, names))
            loop_seconds, theirs = _least(repeats, lambda n=name: _loop(loops[n], real, fake))
            results[name] = {"seconds": seconds / ours.size, "loop_seconds": loop_seconds / ours.size,
                             "speedup": loop_seconds / seconds, "difference": float(np.abs(ours - theirs).max())}
    finally:
        torch.set_num_threads(threads)
    total, loop = (sum(result[key] for result in results.values()) for key in ("seconds", "loop_seconds"))
    return {**results, "all": {"seconds": total, "loop_seconds": loop, "speedup": loop / total}}


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


def _least(repeats: int, run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Least processor time of several runs after one more, and the result."""
    result, times = run(), []
    for _ in range(repeats):
        begin = time.thread_time()
        run()
        times.append(time.thread_time() - begin)
    return min(times), result
