"""What cached latents save: the share of a training step that goes into data and the encoder, with a cache and without."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from autoencoder.codec import Codec
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.encode import EncodeConfig, encode
from latent_diffusion.example import Example, window_frames
from latent_diffusion.modelfile import model_config
from latent_diffusion.stage import DiffusionStage
from latent_diffusion.train import codec_payload, fit_data
from tools import dist
from tools.feed import open_feed
from tools.loop import MicroBatches
from tools.rng import fork


class Seconds(NamedTuple):
    """Of one step."""
    waiting: float  # for the batch
    example: float  # from the batch to latents: the encoder, or what takes its place
    step: float     # all of it


class TimedStage(DiffusionStage):
    """Tells how long a step takes, and how long its latents."""

    def prepare(self, *args, **options) -> Example:
        with self._timed():
            return super().prepare(*args, **options)

    def recall(self, *args, **options) -> Example:
        with self._timed():
            return super().recall(*args, **options)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begin = self._now()
        yield
        self.example_seconds += self._now() - begin

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed_step(self, step: int, batches: Iterator[MicroBatches]) -> Seconds:
        """Fetch a batch and make an update."""
        self.example_seconds, begin = 0.0, self._now()
        batch = next(batches)
        waited = self._now() - begin
        self.train_step(step, batch, self.cfg.loop.batch_size)
        return Seconds(waited, self.example_seconds, self._now() - begin)


def measure(cfg: DiffusionStageConfig, codec: Codec, *, steps: int = 20, warmup: int = 3, windows_per_video: int = 8,
            draws: int = 4, dtype: str = "float32") -> dict[str, Any]:
    """Train a network by turns from pixels and from latents of the same dataset, encoded for the purpose.

    Args:
        cfg: settings of the training; its clips are fitted to the autoencoder.
        codec: the autoencoder.
        steps: measured of each kind, after `warmup` others.
        windows_per_video, draws, dtype: of the cache; see EncodeConfig.

    Returns:
        For "live" and "cached": medians of the seconds of a step, of which for data (waiting) and the encoder (or for reading
        latents in its place), and their share; "speed" is by how much faster a cached step is; and what the cache took.
    """
    cfg, codec = fit_data(cfg, codec), codec.to(dist.device())
    with fork(cfg.train.seed, "init"):
        net = LatentDenoiser(cfg.unet, cfg.condition, codec.shape, codec.channels, codec.frames).to(dist.device())
    feed = open_feed(cfg.data, cfg.loop, frames=window_frames(net.condition, cfg.mask), seed=cfg.train.seed, validation_clips=1,
                     shortest=1 if codec.frames == 1 else None)
    stage = TimedStage(cfg, net, codec, feed.validation, model_config(cfg, codec), codec_payload(codec))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        cache = encode(cfg, codec, EncodeConfig(windows_per_video=windows_per_video, draws=draws, dtype=dtype), model=folder,
                       out=str(Path(folder) / "latents"), tell=_silent)
        seconds = time.perf_counter() - begin
        kinds = {"live": feed.batches, "cached": cache.batches(cfg)}
        measured = _by_turns(stage, kinds, warmup, steps)
        made = cache.manifest
    result: dict[str, Any] = {name: _summary(rows) for name, rows in measured.items()}
    result["speed"] = result["live"]["step_seconds"] / result["cached"]["step_seconds"]
    result["cache"] = {"seconds": seconds, "windows": made["windows"], "clips": made["clips"],
                       "mib": sum(made["files"].values()) / 2**20, "error": made["error"]["rms_relative"]}
    return result


def _by_turns(stage: TimedStage, kinds: dict[str, Callable], warmup: int, steps: int) -> dict[str, list[Seconds]]:
    """One step of each kind after the other, so that other work on the machine disturbs all alike."""
    running = {name: iter(batches(0, warmup + steps)) for name, batches in kinds.items()}
    measured: dict[str, list[Seconds]] = {name: [] for name in kinds}
    for step in tqdm(range(warmup + steps), desc="latents", unit="step", delay=1):
        for name, batches in running.items():
            seconds = stage.timed_step(step, batches)
            if step >= warmup:
                measured[name].append(seconds)
    return measured


def _summary(rows: list[Seconds]) -> dict[str, float]:
    waiting, example, step = (median(values) for values in zip(*rows))
    shares = [(row.waiting + row.example) / row.step for row in rows]
    return {"step_seconds": step, "data_seconds": waiting, "encoder_seconds": example, "share": median(shares)}


def _silent(text: str) -> None:
    pass
