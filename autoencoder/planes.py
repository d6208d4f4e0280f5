"""The triplane latent: three planes of a clip's token grid, packed on one axis."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

PLANES = ("hw", "tw", "th")  # the packing order; each plane is named by the axes it keeps


@dataclass(frozen=True)
class PlaneShape:
    """Token grid of a clip; the latent is its three faces, packed."""

    t: int
    h: int
    w: int

    def __post_init__(self):
        if min(self.t, self.h, self.w) < 1:
            raise ValueError(f"a token grid needs at least one token on each axis, got {self}")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Positions of each plane, in packing order."""
        return self.h * self.w, self.t * self.w, self.t * self.h

    @property
    def total(self) -> int:
        """Positions of the packed latent: n = h w + t w + t h."""
        return sum(self.sizes)


class Planes(NamedTuple):
    """Three planes of the same clip."""

    hw: Tensor  # b c h w
    tw: Tensor  # b c t w
    th: Tensor  # b c t h


def pack(planes: Planes) -> Tensor:
    """Lay the planes one after the other: three planes -> (b c n), in the order hw, tw, th."""
    return torch.cat([plane.flatten(-2) for plane in planes], dim=-1)


def unpack(latent: Tensor, shape: PlaneShape) -> Planes:
    """Inverse of pack: (b c n) -> three planes."""
    if latent.shape[-1] != shape.total:
        raise ValueError(f"latent has {latent.shape[-1]} positions but {shape} needs {shape.total}; "
                         f"it was made by an autoencoder of another size")
    hw, tw, th = latent.split(shape.sizes, dim=-1)
    return Planes(rearrange(hw, "b c (h w) -> b c h w", h=shape.h),
                  rearrange(tw, "b c (t w) -> b c t w", t=shape.t),
                  rearrange(th, "b c (t h) -> b c t h", t=shape.t))
