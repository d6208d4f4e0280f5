"""What a network that describes videos is to the metrics; resizing, exact arithmetic and TorchScript for all of them."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class FeatureNet(Protocol):
    """A frozen network that turns videos into vectors.

    Attributes:
        dim: numbers a video.
        settings: all that decides these numbers, for the report: network, weights, sha256, resize, ...
    """
    dim: int
    settings: dict

    def features(self, frames: Tensor) -> Tensor:
        """Describe videos: uint8 b t h w c -> float32 b d."""


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Full float32 and no gradients: a GPU would round the products to ten bits, and a reported number with them."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False), \
            torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        matmul = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(matmul)


def one_by_one(frames: Tensor) -> Iterator[Tensor]:
    """Split a batch for a network: on a CPU one video at a time, which is as fast there, takes the least memory, and gives
    the same bits in any batch; elsewhere eight."""
    yield from frames.split(1 if frames.device.type == "cpu" else 8)


def resized(frames: Tensor, size: int, *, crop: bool) -> Tensor:
    """Bring frames to size x size, bilinear without antialiasing as the published FVD code does.

    Args:
        frames: uint8 b t h w c.
        size: target side.
        crop: scale the shorter side and cut the centre; otherwise stretch.

    Returns:
        float32 b c t size size in 0..255.
    """
    b, (h, w) = len(frames), frames.shape[2:4]
    pixels = rearrange(frames, "b t h w c -> (b t) c h w").float()
    if crop:
        # the longer side is rounded up, as in VideoGPT
        target = (size, -(-w * size // h)) if h < w else (-(-h * size // w), size)
    else:
        target = (size, size)
    if target != (h, w):
        pixels = F.interpolate(pixels, target, mode="bilinear", align_corners=False)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    pixels = pixels[:, :, top:top + size, left:left + size]
    return rearrange(pixels.expand(-1, 3, -1, -1), "(b t) c h w -> b c t h w", b=b)


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive: a program with its weights, not a state dict."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def load_torchscript(path: str | Path) -> torch.jit.ScriptModule:
    """Read a TorchScript file (its program is confined to tensor operations)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather have other formats; these files have this one
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged TorchScript file ({str(error).strip().splitlines()[0][:100]}); "
                         f"fetch it again") from error
