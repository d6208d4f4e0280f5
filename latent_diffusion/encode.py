"""The command `encode`: the latents of a dataset, so that `ddpm` trains from them without the encoder."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from tqdm import tqdm

from autoencoder.codec import Codec
from latent_diffusion.condition import CONDITIONS, Condition
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.encode_shard import Shard
from latent_diffusion.encode_windows import Runs, Windows, choose_windows, cut_runs, windows_of
from latent_diffusion.example import window_frames
from latent_diffusion.latent_cache import (
    FORMAT,
    INDEX,
    MANIFEST,
    PLAN,
    LatentCache,
    default_folder,
    differences,
    identity,
    read_json,
    shard_name,
    write_tensors,
)
from tools import dist
from tools.clips import open_source
from tools.files import write_text
from tools.mixture import parts_of
from tools.sources import VideoSource

DTYPES = {"float32": torch.float32, "float16": torch.float16}
SHARD_BYTES = 64 << 20  # the most, if no two clips were alike


@dataclass(frozen=True)
class EncodeConfig:
    """Which windows are encoded, and how they are kept; the settings are the command's flags."""
    stride: int | None = None   # frames from one window to the next, and the last one of a video; None: as data.windows says,
    #                             and of random windows all
    windows_per_video: int = 0  # so many at random places in their stead
    draws: int = 4              # masks of each window
    dtype: str = "float32"      # or float16
    batch_size: int = 4         # clips at once

    def __post_init__(self):
        least = {"stride": 1, "windows_per_video": 0, "draws": 1, "batch_size": 1}
        for name, value in least.items():
            if getattr(self, name) is not None and getattr(self, name) < value:
                raise ValueError(f"--{name} must be at least {value}, got {getattr(self, name)}")
        if self.stride and self.windows_per_video:
            raise ValueError(f"--stride {self.stride} and --windows_per_video {self.windows_per_video} exclude each other; "
                             "give one of them")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype must be {' or '.join(DTYPES)}, got {self.dtype}")

    def check(self, cfg: DiffusionStageConfig) -> None:
        """Refuse what cannot be encoded beforehand."""
        drawn = {"train.shift": cfg.train.shift, "data.hue": cfg.data.hue}
        for key, value in drawn.items():
            if value:
                raise ValueError(f"what is drawn anew for each sample cannot be encoded beforehand, got {key}={value}; "
                                 f"set {key}=0")
        if cfg.data.windows != "random" and (self.stride or self.windows_per_video):
            raise ValueError(f"--stride and --windows_per_video are for data.windows=random, got {cfg.data.windows}; "
                             "leave them out")


def encode(cfg: DiffusionStageConfig, codec: Codec, how: EncodeConfig, *, model: str, out: str | None = None,
           tell: Callable[[str], None] = print) -> LatentCache:
    """Write the latents that a training with the settings `cfg` needs of a dataset.

    Shards that are there are kept, so the same command continues what was interrupted. Of several processes each writes a
    part of them.

    Args:
        cfg: settings of the training, whose clips are those of the autoencoder (see train.fit_data).
        codec: the autoencoder.
        how: which windows, and how they are kept.
        model: the path that it was read from, beside which the cache lies without `out`.
        tell: is told what was made.
    """
    how.check(cfg)
    codec = codec.to(dist.device())
    condition = CONDITIONS.bind(cfg.condition)(codec.shape, codec.channels, codec.frames)
    source = open_source(cfg.data)
    settings = {"stride": how.stride, "windows_per_video": how.windows_per_video,
                "draws": how.draws, "dtype": how.dtype,
                "flips": 2 if cfg.train.flip else 1, "seed": cfg.train.seed}
    settings["windows_per_shard"] = max(1, SHARD_BYTES // _window_bytes(condition, codec, settings))
    plan = {"format": FORMAT, "identity": identity(cfg, codec, condition, source), "settings": settings}
    folder = Path(out) if out else default_folder(model, plan["identity"])
    _claim(folder, plan)
    whole = (folder / MANIFEST).is_file()
    dist.barrier()  # all have looked before one writes it
    if not whole:
        windows = choose_windows(source, cfg.data, window_frames(condition, cfg.mask), hop=how.stride, seed=cfg.train.seed,
                                 per_video=how.windows_per_video, images=codec.frames == 1)
        _write_shards(folder, cfg, codec, condition, source, windows, settings, how.batch_size)
        dist.barrier()  # the manifest says that all shards are there
        if dist.is_main():
            _finish(folder, plan, windows, source)
        dist.barrier()
    cache = LatentCache(folder)
    if dist.is_main():
        tell(cache.describe())
    return cache


def _window_bytes(condition: Condition, codec: Codec, settings: dict[str, Any]) -> int:
    """The most that a window's latents take."""
    clips = 2 * condition.slots if condition.observes else 1 + len(condition.sees)
    latent = codec.channels * codec.shape.total * DTYPES[settings["dtype"]].itemsize
    return clips * settings["draws"] * settings["flips"] * latent


def _write_shards(folder: Path, cfg: DiffusionStageConfig, codec: Codec, condition: Condition, source: VideoSource,
                  windows: Windows, settings: dict[str, Any], batch_size: int) -> None:
    """Write this process's share of the shards, but for those that are there."""
    data, draws, flips = cfg.data, settings["draws"], settings["flips"]
    mine = {number: span for number, span in enumerate(_spans(windows, settings)) if number % dist.world() == dist.rank()}
    left = {number: span for number, span in mine.items() if not (folder / shard_name(number)).is_file()}
    runs = [run for span in left.values() for run in cut_runs(windows, span)]
    reader = iter(DataLoader(Runs(source, data, windows, runs), batch_size=None, num_workers=data.workers,
                             generator=torch.Generator()))
    total = sum(map(len, mine.values()))
    with tqdm(total=total, initial=total - sum(map(len, left.values())), desc="encode", unit="window",
              disable=None if dist.is_main() else True) as bar:
        for number, span in left.items():
            shard = Shard(cfg, codec, condition, span, draws=draws, flips=flips, batch_size=batch_size)
            for run in cut_runs(windows, span):
                read = next(reader)
                if isinstance(read, ValueError):
                    raise read
                shard.left_out += read.left_out
                for first, frames in windows_of(run, read, windows, max(1, batch_size // (draws * flips))):
                    shard.add(first, frames.to(codec.device))
                bar.update(len(run.windows))
            shard.save(folder / shard_name(number), DTYPES[settings["dtype"]])


def _spans(windows: Windows, settings: dict[str, Any]) -> list[range]:
    """The windows of each shard."""
    count, size = len(windows.video), settings["windows_per_shard"]
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Take a folder for these latents, or refuse it."""
    failed = None
    if dist.is_main():
        try:
            if (folder / PLAN).is_file():
                if words := differences(read_json(folder / PLAN), plan):
                    raise ValueError(f"{folder} holds other latents: {words}; give another --out, or remove it")
            elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ValueError(f"{folder} exists and holds no latents; give another --out")
            else:
                write_text(folder / PLAN, json.dumps(plan, indent=1) + "\n")
        except ValueError as error:
            failed = str(error)
    failed = dist.broadcast_object(failed)
    if failed:
        raise ValueError(failed)


def _finish(folder: Path, plan: dict[str, Any], windows: Windows, source: VideoSource) -> None:
    """Index the windows that could be read, and say that all is there."""
    shards = [folder / shard_name(number) for number in range(len(_spans(windows, plan["settings"])))]
    ok, squares, largest, clips, left_out = [], np.zeros(2), 0.0, 0, list(windows.left_out)
    for path in shards:
        with safe_open(path, "pt") as file:
            ok.append(file.get_tensor("ok").numpy()[::plan["settings"]["flips"]])
            left_out += json.loads(file.metadata()["left_out"])
            error = file.get_tensor("error").numpy()
            clips += file.get_slice("latents").get_shape()[0]
        squares, largest = squares + error[:2], max(largest, float(error[2]))
    sound = np.concatenate(ok)
    if not sound.any():
        raise ValueError(f"data.on_error=skip left none of the {len(sound)} windows; the last was: {left_out[-1]}")
    counts = np.bincount(windows.video[sound], minlength=len(source))
    index = {"lengths": np.where(counts > 0, windows.lengths, 0), "first": np.concatenate([[0], np.cumsum(counts)]),
             "window": np.flatnonzero(sound), "start": windows.start[sound]}
    write_tensors(folder / INDEX, {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in index.items()})
    files = {path.name: path.stat().st_size for path in [*shards, folder / INDEX]}
    parts = [[part.name, part.first, part.count, str(part.weight)] for part in parts_of(source)]
    manifest = {"frames": windows.frames, "stride": windows.stride, "parts": parts, "videos": int((counts > 0).sum()),
                "windows": int(sound.sum()), "clips": clips, "left_out": left_out, "files": files,
                "error": {"rms_relative": math.sqrt(squares[0] / squares[1]) if squares[1] else 0.0, "largest": largest}}
    write_text(folder / MANIFEST, json.dumps(plan | manifest, indent=1) + "\n")
