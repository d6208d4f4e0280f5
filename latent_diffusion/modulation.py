"""What scales and shifts the U-Net's normalisations beside the time: a condition, position by position, and the place."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.sheets import COORDINATES, Sheets, per_plane, wide, zeroed


class HintSpec(NamedTuple):
    """How a condition reaches the normalisations."""
    kind: str      # "spade": scales and shifts both of a ResBlock; "motion": joins the place in the positional one
    channels: int  # of the hint
    dim: int       # hidden width of each scale and shift ("spade")


class Hint:
    """A condition at the size of every level, and what the blocks make of it.

    Args:
        pyramid: sheets by level, (b k) f h w.
        keep: remember what the blocks make of it, none of which depends on x or t: once for all network evaluations
            of a clip. Training keeps nothing, so that gradient checkpointing may make it again.
    """

    def __init__(self, pyramid: list[Sheets], keep: bool):
        self.pyramid = pyramid
        self.kept: dict[nn.Module, list] | None = {} if keep else None

    def of(self, block: nn.Module) -> list:
        """What `block.read_hint` makes of the pyramid, for each sheet."""
        if self.kept is None:
            return block.read_hint(self.pyramid)
        if block not in self.kept:
            self.kept[block] = block.read_hint(self.pyramid)
        return self.kept[block]


class Side(NamedTuple):
    """What a block is told beside its input."""
    emb: Tensor                  # b e: of the time and what is added to it, after its SiLU
    time: Tensor                 # b: the time, -1 to 1
    places: list[Sheets] | None  # coordinates by level, k 6 h w
    hint: Hint | None
    slots: Any = None            # SlotView of a window's clips, for the attention between them (see cross_slot.py)


class Adapt(nn.Module):
    """Scale and shift of a normalisation at every position, from the hint there (SPATIN, Voleti et al. 2022)."""

    def __init__(self, channels: int, spec: HintSpec, silent: bool):
        super().__init__()
        self.hidden = nn.Conv2d(spec.channels, spec.dim, 3, padding=1)
        self.out = zeroed(nn.Conv2d(spec.dim, 2 * channels, 3, padding=1), silent)

    def forward(self, hint: Tensor) -> tuple[Tensor, Tensor]:  # (b k) f h w -> two (b k) c h w
        scale, shift = wide(self.out(F.silu(self.hidden(hint)))).chunk(2, dim=1)
        return 1 + scale, shift


class Positional(nn.Module):
    """Scale and shift of a normalisation from the time, the place and perhaps the motion there (Mei & Patel 2023).

    W3 SiLU(W2 sin(W1 u) + W4 m), where u is the time, which plane, and the place on the clip's axes t, h and w, all from
    -1 to 1 at any size, so that nothing is tied to a batch or a resolution. It is added to what the embedding says.

    Args:
        motion: channels of the hint m; 0 = none.
    """

    def __init__(self, channels: int, motion: int, silent: bool):
        super().__init__()
        self.time = nn.Linear(1, channels)
        self.place = nn.Conv2d(COORDINATES, channels, 1, bias=False)
        self.motion = nn.Conv2d(motion, 2 * channels, 1, bias=False) if motion else None
        self.hidden = nn.Conv2d(channels, 2 * channels, 1)
        self.out = zeroed(nn.Conv2d(2 * channels, 2 * channels, 1), silent)

    def forward(self, time: Tensor, place: Tensor, motion: Tensor | None) -> tuple[Tensor, Tensor]:
        """Args: time: b; place: k 6 h w; motion: what self.motion made. Returns: two (b k) c h w."""
        phase = self.place(place).repeat(len(time), 1, 1, 1)
        phase = phase + per_plane(self.time(time[:, None]), phase)
        hidden = self.hidden(torch.sin(phase))
        if motion is not None:
            hidden = hidden + motion
        return wide(self.out(F.silu(hidden))).chunk(2, dim=1)
