"""What any model must beat: the unknown frames from the given ones alone."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autoencoder.fill import nearest_index
from tools.registry import Registry

BASELINES = Registry("baseline")  # functions: (frames uint8 b t h w c, known bool t) -> frames

Baseline = Callable[[Tensor, Tensor], Tensor]


@BASELINES.register("repeat_last")
def repeat_last(frames: Tensor, known: Tensor) -> Tensor:
    """Each unknown frame is the last known one before it (before the first known one: that one)."""
    index = torch.where(known, torch.arange(len(known)), -1).cummax(0).values
    return frames[:, torch.where(index < 0, int(known.nonzero()[0]), index)]


@BASELINES.register("nearest")
def nearest(frames: Tensor, known: Tensor) -> Tensor:
    """Each unknown frame is the nearest known one."""
    return frames[:, nearest_index(known[None])[0]]


@BASELINES.register("blend")
def blend(frames: Tensor, known: Tensor) -> Tensor:
    """Each unknown frame is the linear blend of the known ones on both sides; outside of them, the nearest."""
    given = known.nonzero().flatten().numpy()
    place = np.interp(np.arange(len(known)), given, np.arange(len(given)))  # fractional index into the given frames
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, len(given) - 1)
    share = torch.from_numpy(place - low).float()[:, None, None, None]
    before, after = frames[:, given[low]].float(), frames[:, given[high]].float()
    return (before + share * (after - before)).round().to(torch.uint8)


def check(name: str, known: Tensor) -> Baseline:
    """Return a baseline by name, if the given frames (bool t) are enough for it."""
    baseline = BASELINES.get(name)
    if not bool(known.any()):
        raise ValueError(f"--baseline {name} has no given frames to start from; use another --task, or --known")
    return baseline


def complete(name: str, frames: Tensor, known: Tensor) -> Tensor:
    """Run a baseline; the known frames come back exactly."""
    made = check(name, known)(frames, known)
    return torch.where(known[None, :, None, None, None], frames, made)
