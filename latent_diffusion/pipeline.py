"""The public Python API: given some frames of a video, make the others."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_diffusion.completion import Completion, Settings
from latent_diffusion.masks import parse_known
from latent_diffusion.modelfile import DiffusionModel, load_diffusion
from tools import dist
from tools.video import read_video

Frames = Tensor | np.ndarray | str | Path


class VideoDiffusion:
    """A trained model with its autoencoder.

    Videos are uint8 b t h w c (or t h w c: one video), as torch or numpy, or the path of a file; results are uint8
    torch tensors b t h w c on the CPU.

    Example:
        model = VideoDiffusion.load("results/ddpm_main_UCF101_42")
        video = model.predict("past.mp4", 32, seed=1)
    """

    def __init__(self, model: DiffusionModel):
        self.model = model

    @classmethod
    def load(cls, path: str | Path, *, first_model: str | Path | None = None, weights: str = "ema",
             device: str | torch.device | None = None) -> "VideoDiffusion":
        """Load a run folder, a model file, a step checkpoint, or PVDM's released U-Net (with first_model)."""
        model = load_diffusion(path, first_model, weights)
        device = torch.device(device) if device is not None else dist.device()
        model.net.to(device)
        model.codec.to(device)
        return cls(model)

    @property
    def clip(self) -> int:
        """Frames of one clip, T."""
        return self.model.codec.frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return self.model.codec.size

    def complete(self, frames: Frames, known: Tensor | np.ndarray | Sequence[bool], *,
                 sampler: str | Mapping[str, Any] = "ddim", steps: int | str = 50, seed: int = 0, guidance: float = 0.0,
                 scheme: str = "autoreg", window: int = 2, stride: int = 1, overlap: int | None = None,
                 spacing: str = "uniform", border: bool = True, autocast: bool = False,
                 ids: Sequence[tuple[int, int]] | None = None, progress: Callable[[int], None] | None = None) -> Tensor:
        """Make the unknown frames of videos; the known ones come back exactly.

        Args:
            frames: videos; what lies at unknown frames is not looked at.
            known: bool b t or t: True = given.
            sampler: name, or a mapping with the name and its options ({"name": "ddim", "eta": 1.0}).
            steps: of the sampler; "400/20" for the first clip that nothing precedes / each other.
            seed: the same seed makes the same video, in any batch.
            guidance: w of (1 + w) eps(c) - w eps(0).
            scheme, window, stride: how a long video is cut, in clips (see schemes.py).
            overlap: frames that neighbouring clips share.
            spacing: of the levels (see schedule.sampling_levels).
            ids: (video, sample) of each row, of which its noise is a function; default (row, 0).
            border: let made frames take detail from the given ones near them (see autoencoder/border.py).
            autocast: run the denoiser in bfloat16; the autoencoder stays in float32.
            progress: called with the number of network evaluations x videos just made.

        Raises:
            ValueError: frames of another size or type than the model's, or a task that it was not trained for.
        """
        video = self._video(frames)
        mask = self._mask(known, video)
        settings = Settings(sampler=sampler, steps=str(steps), seed=seed, guidance=guidance, scheme=scheme, window=window,
                            stride=stride, overlap=overlap, spacing=spacing, border=border, autocast=autocast)
        ids = list(ids) if ids is not None else [(row, 0) for row in range(len(video))]
        if len(ids) != len(video):
            raise ValueError(f"got {len(ids)} ids for {len(video)} videos; give one (video, sample) for each")
        out = video.clone()
        patterns: dict[bytes, list[int]] = {}  # rows with the same known frames are made together
        for row in range(len(video)):
            patterns.setdefault(mask[row].numpy().tobytes(), []).append(row)
        for rows in patterns.values():
            work = Completion(self.model, settings, mask[rows[0]], [ids[row] for row in rows], progress)
            out[rows] = work.run(video[rows])
        return out

    def generate(self, count: int = 1, *, frames: int | None = None, **options) -> Tensor:
        """Make `count` videos from nothing; options as in `complete`."""
        frames = self.clip if frames is None else frames
        blank = torch.zeros(count, frames, *self.size, self.model.codec.config.in_channels, dtype=torch.uint8)
        return self.complete(blank, torch.zeros(count, frames, dtype=torch.bool), **options)

    def predict(self, past: Frames, count: int, **options) -> Tensor:
        """Continue videos by `count` frames; returns past and future together."""
        past = self._video(past)
        if count < 1:
            raise ValueError(f"predict makes at least one frame, got count={count}")
        blank = past.new_zeros(len(past), count, *past.shape[2:])
        known = torch.arange(past.shape[1] + count) < past.shape[1]
        return self.complete(torch.cat([past, blank], 1), known, **options)

    def predict_backward(self, future: Frames, count: int, **options) -> Tensor:
        """Make the `count` frames before videos; returns past and future together."""
        future = self._video(future)
        if count < 1:
            raise ValueError(f"predict_backward makes at least one frame, got count={count}")
        blank = future.new_zeros(len(future), count, *future.shape[2:])
        known = torch.arange(count + future.shape[1]) >= count
        return self.complete(torch.cat([blank, future], 1), known, **options)

    def interpolate(self, first: Frames, last: Frames, count: int, **options) -> Tensor:
        """Make `count` frames between two videos, of one frame or more; returns all in order."""
        first, last = self._video(first), self._video(last)
        if count < 1:
            raise ValueError(f"interpolate makes at least one frame, got count={count}")
        if len(first) != len(last):
            raise ValueError(f"interpolate needs as many first videos as last ones, got {len(first)} and {len(last)}")
        blank = first.new_zeros(len(first), count, *first.shape[2:])
        frame = torch.arange(first.shape[1] + count + last.shape[1])
        known = (frame < first.shape[1]) | (frame >= first.shape[1] + count)
        return self.complete(torch.cat([first, blank, last], 1), known, **options)

    def infill(self, frames: Frames, known: str | Sequence[bool], **options) -> Tensor:
        """Make the frames that are not known; `known` may be a SPEC such as "0-3,12" (see masks.parse_known)."""
        video = self._video(frames)
        mask = parse_known(known, video.shape[1]) if isinstance(known, str) else known
        return self.complete(video, mask, **options)

    def _video(self, frames: Frames) -> Tensor:
        """Accept what people have; say what it was where it cannot be used."""
        if isinstance(frames, (str, Path)):
            frames = read_video(frames)
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames))
        if not isinstance(frames, Tensor):
            raise ValueError(f"frames must be a torch tensor, a numpy array or a path, got {type(frames).__name__}")
        want = (*self.size, self.model.codec.config.in_channels)
        if frames.dim() == 4:
            frames = frames[None]
        if frames.dtype != torch.uint8 or frames.dim() != 5 or tuple(frames.shape[2:]) != want:
            raise ValueError(f"frames must be uint8 b t h w c with h w c = {want}, got {frames.dtype} of shape "
                             f"{tuple(frames.shape)}; resize them with tools.video.resize_crop")
        return frames.cpu()

    @staticmethod
    def _mask(known, video: Tensor) -> Tensor:
        mask = torch.as_tensor(np.asarray(known) if not isinstance(known, Tensor) else known).cpu()
        if mask.dim() == 1:
            mask = mask.expand(len(video), -1)
        if mask.dtype != torch.bool or tuple(mask.shape) != tuple(video.shape[:2]):
            raise ValueError(f"known must be bool b t = {tuple(video.shape[:2])}, got {mask.dtype} of shape "
                             f"{tuple(mask.shape)}")
        return mask.contiguous()
