"""How the network sees what is known: from (frames, mask) to its input."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from autoencoder.planes import PlaneShape
from tools.registry import Registry

CONDITIONS = Registry("condition")  # classes: cls(shape, channels, frames, *, options)

OFFSETS = {"past": -1, "self": 0, "future": 1}  # neighbours of a target clip, in clips


class Context(NamedTuple):
    """What is observed around a target clip, in each place (see OFFSETS) that its condition looks at."""
    latents: Tensor  # b k c n: of the observed frames, missing ones filled from the nearest; zero where none is. Those of
    #                  the clip itself are filled from all that is looked at, so that it holds the nearest frame still
    known: Tensor    # b k f bool: which of the clip's frames were observed


def mask_planes(known: Tensor, shape: PlaneShape) -> Tensor:
    """Frame masks (b k f) as planes (b k n): the fraction of known frames, of each time row on tw and th, of all on hw.

    A time row stands for f / t frames; where that is one frame, the rows hold 0 and 1.
    """
    rows = rearrange(known.float(), "b k (t r) -> b k t r", t=shape.t).mean(-1)
    hw = repeat(rows.mean(-1), "b k -> b k n", n=shape.h * shape.w)
    return torch.cat([hw, repeat(rows, "b k t -> b k (t w)", w=shape.w), repeat(rows, "b k t -> b k (t h)", h=shape.h)],
                     dim=-1)


@CONDITIONS.register("concat")
class Concat(nn.Module):
    """One target clip at a time; the latents of what is observed around it join it on the channels.

    With sees=("past",) and mask=False it is PVDM's condition, the one that its released weights need: a zero latent
    says that nothing is known.

    Args:
        shape, channels: of the latent.
        frames: of a clip.
        sees: which of the clip before ("past"), the clip itself ("self") and the one after ("future") are looked at.
        mask: say which frames were observed, by a mask plane for each place and by `bits`, so that "nothing is known" is
            not mistaken for a latent of zeros. Whatever sees more than the clip before needs it.
        residual: the network's x0 is what it adds to the filled latent of the clip itself, so that what stands still is
            there from the first update on (nothing, if it is not seen); only for process.parametrisation=x0.
    """

    def __init__(self, shape: PlaneShape, channels: int, frames: int, *, sees: Sequence[str] = ("past",),
                 mask: bool = False, residual: bool = False):
        super().__init__()
        for place in sees:
            if place not in OFFSETS:
                raise ValueError(f"condition.sees has {place!r}; it takes {', '.join(OFFSETS)}")
        if set(sees) - {"past"} and not mask:
            raise ValueError(f"condition.sees={list(sees)} can be known in part, so the network must be told what is; "
                             "set condition.mask=true")
        self.shape, self.channels, self.frames, self.mask = shape, channels, frames, mask
        self.residual = residual and "self" in sees
        self.sees = tuple(place for place in OFFSETS if place in sees)  # in the order of time

    @property
    def in_channels(self) -> int:
        return self.channels + len(self.sees) * (self.channels + self.mask)

    @property
    def bits(self) -> int:
        """Frames of which it is told one by one whether they are known: a share of a clip does not say which."""
        return len(self.sees) * self.frames * self.mask

    @property
    def span(self) -> int:
        """Clips that a training window needs: the target and the neighbours that are looked at."""
        return len(self.around)

    @property
    def around(self) -> range:
        """Clips that are looked at, counted from the target."""
        offsets = [0, *(OFFSETS[place] for place in self.sees)]
        return range(min(offsets), max(offsets) + 1)

    @property
    def target(self) -> int:
        """Which clip of a training window is the target."""
        return -self.around.start

    def nothing(self, batch: int, device: torch.device) -> Context:
        """The context of a clip around which nothing is known."""
        k = len(self.sees)
        return Context(torch.zeros(batch, k, self.channels, self.shape.total, device=device),
                       torch.zeros(batch, k, self.frames, dtype=torch.bool, device=device))

    def base(self, context: Context | None) -> Tensor | float:
        """What the network's output is added to, b c n: the clip with all its frames filled in, or nothing."""
        return context.latents[:, self.sees.index("self")] if self.residual and context else 0.0

    def forward(self, z: Tensor, context: Context | None) -> Tensor:
        """Join a noisy latent (b c n) and its context to the network's input (b in_channels n)."""
        context = context or self.nothing(len(z), z.device)
        observed = context.latents
        if self.mask:
            observed = torch.cat([observed, mask_planes(context.known, self.shape)[:, :, None].to(observed)], dim=2)
        return torch.cat([z, rearrange(observed, "b k c n -> b (k c) n").to(z)], dim=1)
