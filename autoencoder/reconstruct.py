"""The command `reconstruct`: videos through the autoencoder, and how much of them comes back."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from autoencoder.codec import Codec, load_autoencoder
from evals.protocol import METRICS
from tools import dist
from tools.clips import fit
from tools.log import write_text
from tools.sources import SOURCES
from tools.video import to_clip, to_frames
from tools.writers import strip, write_mp4, write_png

PAIRED = ("psnr", "psnr_pooled", "ssim")


def reconstruct(*, first_model: str | None, weights: str, input: str | None, out: str | None, resize: bool,
                batch_size: int | None) -> None:
    """Write DIR/recon/NAME.npy (uint8 t h w c), DIR/latent/NAME.npy (float32 c n, normalised) and DIR/metrics.json.

    A video of more than one clip is cut into clips (the last one overlaps where the length is no multiple), whose
    latents follow each other along n. DIR/videos/NAME.mp4 shows the truth beside the reconstruction.
    """
    for name, value in (("--first_model MODEL", first_model), ("--input PATH", input), ("--out DIR", out)):
        if not value:
            raise ValueError(f"--exp reconstruct needs {name}")
    codec = load_autoencoder(first_model, weights).to(dist.device())
    source = SOURCES.bind("VIDEOS")(input)
    folder = Path(out)
    for name in ("recon", "latent", "videos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    totals = {name: METRICS.get(name)() for name in PAIRED}
    videos, rows = {}, []
    for i in tqdm(range(len(source)), unit="video", desc="reconstruct", delay=1):
        name = source.name(i)
        frames = _fitted(source.read(i, 0, None), name, codec, resize)
        recon, latent = through(codec, frames, batch_size or 4)
        np.save(folder / "recon" / f"{name}.npy", recon.numpy())
        np.save(folder / "latent" / f"{name}.npy", latent.numpy())
        write_mp4(folder / "videos" / f"{name}.mp4", torch.cat([frames, recon], dim=2).numpy())
        own = {metric: METRICS.get(metric)() for metric in PAIRED}
        for metric in PAIRED:
            own[metric].update(frames[None], recon[None], videos=[name])
            totals[metric].merge(own[metric])
        videos[name] = {"frames": len(frames), **{metric: own[metric].compute()["mean"] for metric in PAIRED}}
        if len(rows) < 8:
            rows += [frames.numpy(), recon.numpy()]
    write_png(folder / "strip.png", strip([row[:codec.frames] for row in rows], every=max(1, codec.frames // 8)))
    result = {"metrics": {name: metric.compute() for name, metric in totals.items()}, "videos": videos,
              "first_model": str(first_model), "weights_hash": codec.weights_hash}
    write_text(folder / "metrics.json", json.dumps(result, indent=1) + "\n")
    print("  ".join(f"{name} {value['mean']:.4g}" for name, value in result["metrics"].items()) + f"  {folder}")


@torch.no_grad()
def through(codec: Codec, frames: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """One video (uint8 t h w c) through the codec: frames of the same length, and latents c (s n) of its s clips."""
    t, length = codec.frames, len(frames)
    starts = [*range(0, length - t, t), length - t]
    clips = torch.stack([frames[s:s + t] for s in starts])
    latents, made = [], torch.zeros_like(frames)
    for first in range(0, len(starts), batch_size):
        clip = to_clip(clips[first:first + batch_size].to(codec.device))
        latent = codec.encode(clip)
        latents.append(latent.cpu())
        for start, part in zip(starts[first:first + batch_size], to_frames(codec.decode(latent)).cpu()):
            made[start:start + t] = part
    return made, torch.cat(latents).transpose(0, 1).flatten(1).float()


def _fitted(frames: np.ndarray, name: str, codec: Codec, resize: bool) -> Tensor:
    if len(frames) < codec.frames:
        raise ValueError(f"video {name} has {len(frames)} frames, a clip of this autoencoder has {codec.frames}; "
                         "leave it out, or train with fewer data.frames")
    if frames.shape[1:3] != codec.size and not resize:
        raise ValueError(f"video {name} is {frames.shape[1]}x{frames.shape[2]}, the autoencoder takes {codec.size[0]}x"
                         f"{codec.size[1]} (height x width); add --resize to scale and crop it")
    return torch.from_numpy(fit(frames, codec.size, codec.config.in_channels))
