"""Which frames are known: drawn while training, spelled out by the user when sampling.

A mask sampler is (t, draw, *, options) -> bool t, True = known, where t counts the frames of a training window and
draw() gives floats uniform in [0, 1). It knows at most t - 1 frames: something is left to make.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from tools.registry import Registry

Uniform = Callable[[], float]

MASKS = Registry("mask sampler")

RANGE = re.compile(r"(-?[0-9]+)(?:-(-?[0-9]+))?")  # 5, -1, 0-3, -4--1, 5--1


@MASKS.register("none")
def none(t: int, draw: Uniform) -> Tensor:
    """Nothing is known: unconditional training."""
    return _first(0, t)


@MASKS.register("pvdm")
def pvdm(t: int, draw: Uniform, *, rate: float = 0.3) -> Tensor:
    """The first half (the clip before) is known with probability `rate`, else nothing; as PVDM is trained."""
    if not 0 <= rate <= 1:
        raise ValueError(f"mask option rate is a probability, got {rate}; use a number from 0 to 1")
    return _first(t // 2 if draw() < rate else 0, t)


@MASKS.register("prefix")
def prefix(t: int, draw: Uniform) -> Tensor:
    """The first k frames, k uniform from 0 to t - 1."""
    return _first(int(draw() * t), t)


def parse_known(spec: str, frames: int) -> Tensor:
    """Read known frames such as "0-3,12" (inclusive; negative counts from the end: "-4--1" is the last four).

    Args:
        spec: comma-separated frames and ranges; empty knows nothing.
        frames: length of the video.

    Returns:
        bool tensor of shape (frames,).

    Raises:
        ValueError: not of this form, outside the video, a range that runs backward, or nothing left to make.
    """
    known = torch.zeros(frames, dtype=torch.bool)
    for part in spec.split(",") if spec.strip() else ():
        match = RANGE.fullmatch(part.strip())
        if not match:
            raise ValueError(f'known="{spec}": "{part.strip()}" is neither a frame nor a range; write it like 0-3,12 '
                             "or -4--1")
        first = _frame(match[1], frames, spec)
        last = _frame(match[2] or match[1], frames, spec)
        if last < first:
            raise ValueError(f'known="{spec}": the range {part.strip()} runs backward, from frame {first} to {last}')
        known[first:last + 1] = True
    if known.all():
        raise ValueError(f'known="{spec}" is all of the {frames} frames, which leaves nothing to make; '
                         "ask for more frames or give fewer")
    return known


def _frame(text: str, frames: int, spec: str) -> int:
    frame = int(text)
    if not -frames <= frame < frames:
        raise ValueError(f'known="{spec}": frame {text} lies outside the video of {frames} frames '
                         f"(0 to {frames - 1}, or -{frames} to -1)")
    return frame % frames


def _first(count: int, t: int) -> Tensor:
    return torch.arange(t) < count
