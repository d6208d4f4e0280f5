"""Weights and inputs made by formula, so that golden outputs need no weight file.

The outputs in this folder were computed once with the public PVDM implementation on exactly these tensors.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent


def golden_state(keys_json_path: str | Path, gain: float) -> dict[str, Tensor]:
    """State dict of float32 tensors for a file of {key: {"shape", "learnable"}}.

    Args:
        keys_json_path: one of the `*_keys.json` files of this folder.
        gain: scale of the weights of two or more axes (0.5 for the autoencoder, 1 for the rest).
    """
    keys = json.loads(Path(keys_json_path).read_text())
    return {key: _learnable(key, entry["shape"], gain) if entry["learnable"] else _buffer(key, entry["shape"])
            for key, entry in keys.items()}


def _learnable(key: str, shape: list[int], gain: float) -> Tensor:
    seed = (zlib.crc32(key.encode()) ^ 20261121) & 0xFFFFFFFF
    r = np.random.RandomState(seed).standard_normal(shape)
    is_weight = key.split(".")[-1] == "weight"
    if is_weight and len(shape) >= 2:
        r = gain * r / math.sqrt(math.prod(shape[1:]))
    elif is_weight:
        r = 1 + 0.1 * r
    else:
        r = 0.1 * r
    return torch.from_numpy(r).float()


def _buffer(key: str, shape: list[int]) -> Tensor:
    """What the constructor of the reference leaves in a tensor that is not learned."""
    name = key.split(".")[-1]
    if name == "inv_freqs":
        return 10000.0 ** -(torch.arange(shape[0], dtype=torch.float64) / shape[0]).float()
    if name == "scales":
        return torch.logspace(0.0, math.log2(5), shape[0], base=2, dtype=torch.float64).float()
    if name == "coords":
        return torch.linspace(-1, 1, shape[0]).reshape(shape)
    if name == "running_var":
        return torch.ones(shape)
    if name == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if name in ("zeros", "running_mean"):
        return torch.zeros(shape)
    raise AssertionError(f"{key}: no rule for this tensor")


def golden_clip(b: int, c: int, t: int, h: int, w: int) -> Tensor:
    """clip[B,C,T,H,W] = sin(0.05 H + 0.2 T + C + B) * cos(0.07 W - 0.13 T + 0.5 C), float32."""
    B, C, T, H, W = np.meshgrid(*(np.arange(n) for n in (b, c, t, h, w)), indexing="ij", sparse=True)
    clip = np.sin(0.05 * H + 0.2 * T + C + B) * np.cos(0.07 * W - 0.13 * T + 0.5 * C)
    return torch.from_numpy(clip).float()


def golden_wave(*shape: int) -> Tensor:
    """sin(0.37 i) + 0.5 cos(0.0113 i) over the flat index i, float32."""
    i = np.arange(math.prod(shape))
    return torch.from_numpy(np.sin(0.37 * i) + 0.5 * np.cos(0.0113 * i)).float().reshape(shape)
