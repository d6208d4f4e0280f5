"""The command `reconstruct`: videos through the autoencoder, and how much of them comes back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from autoencoder.codec import Codec, load_autoencoder
from autoencoder.linear import LinearCodec, fit_linear
from evals.protocol import METRICS
from tools import dist
from tools.clips import DataConfig, fit, open_source
from tools.log import write_text
from tools.sources import SOURCES
from tools.video import to_clip, to_frames
from tools.writers import strip, write_mp4, write_png

PAIRED = ("psnr", "psnr_pooled", "ssim")


def reconstruct(*, first_model: str | None, weights: str, input: str | None, out: str | None, resize: bool,
                batch_size: int | None, baseline: str | None = None, data: str | None = None,
                data_path: str | None = None) -> None:
    """Write DIR/recon/NAME.npy (uint8 t h w c), DIR/latent/NAME.npy (float32 c n, normalised) and DIR/metrics.json.

    A video of more than one clip is cut into clips (the last one overlaps where the length is no multiple), whose
    latents follow each other along n. DIR/videos/NAME.mp4 shows the truth beside the reconstruction. With
    `baseline="linear"` the best linear codec of as many values, fitted to the training side of `data`, is measured beside.
    Of several processes only the main one works.
    """
    if not dist.is_main():
        return
    if baseline not in (None, "linear"):
        raise ValueError(f"--exp reconstruct has the baseline linear, got --baseline {baseline}")
    if baseline and not data:
        raise ValueError("--baseline linear is fitted to training videos: name them with --data and --data_path")
    if data and not baseline:
        raise ValueError(f"--exp reconstruct reads --input PATH; --data {data} only names what --baseline linear is fitted to: "
                         "add that, or leave --data out")
    batch_size = 4 if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {batch_size}")
    for name, value in (("--first_model MODEL", first_model), ("--input PATH", input), ("--out DIR", out)):
        if not value:
            raise ValueError(f"--exp reconstruct needs {name}")
    codec = load_autoencoder(first_model, weights).to(dist.device())
    source = SOURCES.bind("VIDEOS")(input)
    folder = Path(out)
    for name in ("recon", "latent", "videos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    totals = {name: METRICS.get(name)() for name in PAIRED}
    linear = fit_baseline(codec, DataConfig(name=data, path=data_path or "", split="train")) if baseline else None
    linear_total = METRICS.get("psnr")()
    videos, rows = {}, []
    for i in tqdm(range(len(source)), unit="video", desc="reconstruct", delay=1):
        name = source.name(i)
        frames = _fitted(source.read(i, 0, None), name, codec, resize)
        recon, latent = through(codec, frames, batch_size)
        np.save(folder / "recon" / f"{name}.npy", recon.numpy())
        np.save(folder / "latent" / f"{name}.npy", latent.numpy())
        write_mp4(folder / "videos" / f"{name}.mp4", torch.cat([frames, recon], dim=2).numpy())
        own = {metric: METRICS.get(metric)() for metric in PAIRED}
        for metric in PAIRED:
            own[metric].update(frames[None], recon[None], videos=[name])
            totals[metric].merge(own[metric])
        if linear:
            best = in_clips(frames, codec.frames, linear.reconstruct, batch_size)
            linear_total.update(frames[None], best[None], videos=[name])
        videos[name] = {"frames": len(frames), **{metric: own[metric].compute()["mean"] for metric in PAIRED}}
        if len(rows) < 8:
            rows += [frames.numpy(), recon.numpy()]
    write_png(folder / "strip.png", strip([row[:codec.frames] for row in rows], every=max(1, codec.frames // 8)))
    result = {"metrics": {name: metric.compute() for name, metric in totals.items()}, "videos": videos,
              "first_model": str(first_model), "weights_hash": codec.weights_hash}
    if linear:
        result["metrics"]["linear_psnr"] = linear_total.compute()
    write_text(folder / "metrics.json", json.dumps(result, indent=1) + "\n")
    print("  ".join(f"{name} {value['mean']:.4g}" for name, value in result["metrics"].items()) + f"  {folder}")


@torch.no_grad()
def through(codec: Codec, frames: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """One video (uint8 t h w c) through the codec: frames of the same length, and latents c (s n) of its s clips."""
    latents = []

    def call(clips: Tensor) -> Tensor:
        latents.append(codec.encode(clips.to(codec.device)))
        return codec.decode(latents[-1]).cpu()

    made = in_clips(frames, codec.frames, call, batch_size)
    return made, torch.cat(latents).cpu().transpose(0, 1).flatten(1).float()


def in_clips(frames: Tensor, length: int, call: Callable[[Tensor], Tensor], batch_size: int) -> Tensor:
    """Put a video (uint8 t h w c) through `call` (float b c t h w -> the same) clip by clip, the last one at the end."""
    starts = [*range(0, len(frames) - length, length), len(frames) - length]
    made = torch.zeros_like(frames)
    for first in range(0, len(starts), batch_size):
        part = starts[first:first + batch_size]  # a whole video as float would be four times its bytes
        clips = to_frames(call(to_clip(torch.stack([frames[s:s + length] for s in part]))))
        for start, clip in zip(part, clips):
            made[start:start + length] = clip
    return made


def fit_baseline(codec: Codec, data: DataConfig, most: int = 3000) -> LinearCodec:
    """The best linear codec with as many values a clip as `codec`, of at most `most` training clips."""
    source = open_source(data)
    counts = [max(0, source.num_frames(i) - codec.frames + 1) for i in range(len(source))]
    every = [(i, start) for i, count in enumerate(counts) for start in range(count)]
    if len(every) > most:
        every = [every[int(k)] for k in torch.linspace(0, len(every) - 1, most)]
    clips = [torch.from_numpy(fit(source.read(i, s, s + codec.frames), codec.size, codec.config.in_channels))
             for i, s in tqdm(every, unit="clip", desc="linear baseline", delay=1)]
    return fit_linear(to_clip(torch.stack(clips)), codec.channels * codec.shape.total)


def _fitted(frames: np.ndarray, name: str, codec: Codec, resize: bool) -> Tensor:
    if len(frames) < codec.frames:
        raise ValueError(f"video {name} has {len(frames)} frames, a clip of this autoencoder has {codec.frames}; "
                         "leave it out, or train with fewer data.frames")
    if frames.shape[1:3] != codec.size and not resize:
        raise ValueError(f"video {name} is {frames.shape[1]}x{frames.shape[2]}, the autoencoder takes {codec.size[0]}x"
                         f"{codec.size[1]} (height x width); add --resize to scale and crop it")
    return torch.from_numpy(fit(frames, codec.size, codec.config.in_channels))
