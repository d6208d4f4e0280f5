"""Bring frames to the size and the colours of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tools.video import resize_crop

if TYPE_CHECKING:
    from tools.sources import VideoSource

RESIZES = ("crop", "pad", "stretch")


def fit(frames: np.ndarray, size: tuple[int, int], channels: int = 3, resize: str = "crop") -> np.ndarray:
    """Bring uint8 t h w c to a size and a number of channels (grey is Rec. 601 luma); scaling is antialiased.

    Args:
        size: height and width.
        channels: 3, or 1 for grey.
        resize: "crop" covers the size and cuts the centre, "pad" shows all between black bars, "stretch" gives up
            the aspect.
    """
    frames = _padded(frames, size) if resize == "pad" else resize_crop(frames, size, resize)
    if frames.shape[-1] == channels:
        return np.ascontiguousarray(frames)
    if channels == 3:
        return np.repeat(frames, 3, axis=-1)
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(luma).astype(np.uint8)[..., None]


def read_fit(source: VideoSource, i: int, start: int, stop: int, step: int, size: tuple[int, int], channels: int = 3,
             resize: str = "crop") -> np.ndarray:
    """Read frames of video i and fit them: uint8 t h w c; cropped and enlarged in the decoder where the source can do so."""
    if resize != "crop":
        return fit(source.read(i, start, stop, step), size, channels, resize)
    return fit(read_sized(source, i, start, stop, step, size), size, channels)


def read_sized(source: VideoSource, i: int, start: int, stop: int, step: int, size: tuple[int, int]) -> np.ndarray:
    """Read frames of video i, the centre of each scaled to (height, width)."""
    if hasattr(source, "read_sized"):
        return source.read_sized(i, start, stop, step, size)
    return resize_crop(source.read(i, start, stop, step), size)


def _padded(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = frames.shape[1:3]
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    padded = np.zeros((len(frames), *size, frames.shape[-1]), np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded[:, top:top + inner[0], left:left + inner[1]] = resize_crop(frames, inner, "stretch")
    return padded


def turn_hue(frames: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue of all frames, uint8 t h w 3, by the same part of the colour circle, -0.5 to 0.5."""
    from torchvision.transforms.v2.functional import adjust_hue  # takes a second, which only few runs need
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return np.ascontiguousarray(adjust_hue(planes, turn).permute(0, 2, 3, 1).numpy())
