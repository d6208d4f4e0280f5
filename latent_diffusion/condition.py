"""How the network sees what is known: from (frames, mask) to its input, or to its normalisations."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from autoencoder.planes import PlaneShape
from latent_diffusion.modulation import HintSpec
from tools.registry import Registry

CONDITIONS = Registry("condition")  # classes: cls(shape, channels, frames, *, options)

OFFSETS = {"anchor": -2, "past": -1, "self": 0, "future": 1}  # neighbours of a target clip, in clips


class Context(NamedTuple):
    """What is observed around a target clip, in each place (see OFFSETS) that its condition looks at."""
    latents: Tensor  # b k c n: of the observed frames, missing ones filled in (autoencoder/fill.py); zero where none is. Those
    #                  of the clip itself are filled from all that is looked at
    known: Tensor    # b k f bool: which of the clip's frames were observed
    level: Tensor | float = 0.0  # b k, or one for all: sigma of the noise in the latents (see Condition.noised), 0 = clean


def mask_planes(known: Tensor, shape: PlaneShape) -> Tensor:
    """Frame masks (b k f) as planes (b k n): the fraction of known frames, of each time row on tw and th, of all on hw.

    A time row stands for f / t frames; where that is one frame, the rows hold 0 and 1.
    """
    rows = rearrange(known.float(), "b k (t r) -> b k t r", t=shape.t).mean(-1)
    hw = repeat(rows.mean(-1), "b k -> b k n", n=shape.h * shape.w)
    return torch.cat([hw, repeat(rows, "b k t -> b k (t w)", w=shape.w), repeat(rows, "b k t -> b k (t h)", h=shape.h)],
                     dim=-1)


class Condition(nn.Module):
    """One target clip at a time, and the latents of what is observed around it.

    The target is always the whole clip, frames that are given in it included: they are noised and bear loss like the
    others. So a model that predicts all frames of a window, known ones too (MCVD's output_all_frames), is the one that
    looks at nothing but the clip itself (sees=["self"]). Of known neighbouring clips nothing is predicted: they are
    given whole, and copying them teaches nothing.

    Args:
        shape, channels: of the latent.
        frames: of a clip.
        sees: which of the clips before ("anchor", two before, and "past"), the clip itself ("self") and the one after
            ("future") are looked at.
        mask: say which frames were observed, by a mask plane for each place and by `bits`, so that "nothing is known" is
            not mistaken for a latent of zeros. Whatever sees more than the clip before needs it.
        residual: the network's x0 is what it adds to the filled latent of the clip itself, so that what stands still is
            there from the first update on (nothing, if it is not seen); only for process.parametrisation=x0. A noisy
            context (see `noised`) is added as it is seen.
        null_token: where nothing is known, show a learned latent (one vector for each place and plane), not zeros.
        history: tell the network how noisy the latents are that it is shown (see `noised`), by an embedding for each place.
    """

    observes = False  # looks at all clips that a window observes, wherever they are, and makes several at once

    def __init__(self, shape: PlaneShape, channels: int, frames: int, *, sees: Sequence[str], mask: bool, residual: bool,
                 null_token: bool, history: bool):
        super().__init__()
        for place in sees:
            if place not in OFFSETS:
                raise ValueError(f"condition.sees has {place!r}; it takes {', '.join(OFFSETS)}")
        if set(sees) - {"past"} and not mask:
            raise ValueError(f"condition.sees={list(sees)} can be known in part, so the network must be told what is; "
                             "set condition.mask=true")
        if "anchor" in sees and "past" not in sees:
            raise ValueError(f"condition.sees={list(sees)} has a gap between the anchor and the clip; add past")
        if null_token and not (mask and sees):
            raise ValueError("condition.null_token=true needs condition.mask=true, and something in condition.sees")
        if history and not sees:
            raise ValueError("condition.history=true needs something in condition.sees that can be noisy")
        self.shape, self.channels, self.frames, self.mask, self.history = shape, channels, frames, mask, history
        self.residual = residual and "self" in sees
        self.sees = tuple(place for place in OFFSETS if place in sees)  # in the order of time
        self.null_token = nn.Parameter(torch.zeros(len(sees), channels, 3)) if null_token else None  # k c, and which plane

    @property
    def in_channels(self) -> int:
        """Of the network's input."""
        return self.channels

    @property
    def hint_spec(self) -> HintSpec | None:
        """How it joins the network's normalisations, if it does."""
        return None

    @property
    def bits(self) -> int:
        """Frames of which it is told one by one whether they are known: a share of a clip does not say which."""
        return len(self.sees) * self.frames * self.mask

    @property
    def span(self) -> int:
        """Clips that a training window needs: the target and the neighbours that are looked at."""
        return len(self.around)

    @property
    def stretch(self) -> int:
        """Frames of a training window."""
        return self.span * self.frames

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

    def unseen(self, context: Context | None) -> Context | None:
        """What the clip is shown in place of a context where nothing is known."""
        return None

    def absent(self, known: Tensor) -> Tensor:
        """In which places nothing is there to be seen: b k f -> b k. The clip itself is filled from all the others."""
        absent = ~known.any(-1)
        if "self" in self.sees:
            absent[:, self.sees.index("self")] = absent.all(-1)
        return absent

    def noised(self, context: Context, level: Tensor | float, noise: Tensor) -> Context:
        """The same with its latents o made noisy, sqrt(1 - s^2) o + s noise, and told so; absent ones stay as they are.

        It keeps long rollouts from relying on the errors of what they made, and is the weaker condition that history
        guidance needs. MCVD's noise_in_cond ties s to the level of the target; here it has a level of its own.

        Args:
            level: s in 0..1, float or b k.
            noise: b k c n, standard normal; drawn once for a clip and not for each evaluation.
        """
        if context.latents.shape[1] and not self.history:
            raise ValueError("this model is not told how noisy its context is; train one with condition.history=true")
        level = torch.as_tensor(level, dtype=torch.float32, device=context.latents.device)
        if not bool(((level >= 0) & (level <= 1)).all()):
            raise ValueError(f"the level of history noise lies in 0..1, got {level.min().item():g} to {level.max().item():g}")
        level = level.expand(context.latents.shape[:2]).masked_fill(self.absent(context.known), 0.0)
        s = level[:, :, None, None].to(context.latents)
        return context._replace(latents=(1 - s**2).sqrt() * context.latents + s * noise, level=level)

    def levels(self, context: Context) -> Tensor:
        """Noise of each place, b k."""
        latents = context.latents
        return torch.as_tensor(context.level, dtype=torch.float32, device=latents.device).expand(latents.shape[:2])

    def base(self, context: Context | None) -> Tensor | float:
        """What the network's output is added to, b c n: the clip with all its frames filled in, or nothing."""
        return context.latents[:, self.sees.index("self")] if self.residual and context else 0.0

    def observed(self, context: Context) -> Tensor:
        """The latents with null tokens and mask planes, b k (c, c + 1) n."""
        latents = context.latents
        if self.null_token is not None:
            counts = torch.tensor(self.shape.sizes, device=latents.device)
            token = self.null_token.repeat_interleave(counts, dim=-1, output_size=self.shape.total).to(latents)  # k c n
            latents = torch.where(self.absent(context.known)[:, :, None, None], token, latents)
        if self.mask:
            latents = torch.cat([latents, mask_planes(context.known, self.shape)[:, :, None].to(latents)], dim=2)
        return latents

    def beside(self, context: Context) -> Tensor | None:
        """Channels that join the noisy latent, after its own, b c n, if any do."""
        return None

    def hint(self, context: Context) -> Tensor | None:
        """What joins the network's normalisations, b f n, if anything does."""
        return None


@CONDITIONS.register("concat")
class Concat(Condition):
    """What is observed joins the noisy latent on the channels.

    With sees=("past",) and mask=False it is PVDM's condition, the one that its released weights need: a zero latent
    says that nothing is known. Args: see Condition.
    """

    def __init__(self, shape: PlaneShape, channels: int, frames: int, *, sees: Sequence[str] = ("past",),
                 mask: bool = False, residual: bool = False, null_token: bool = False, history: bool = False):
        super().__init__(shape, channels, frames, sees=sees, mask=mask, residual=residual, null_token=null_token,
                         history=history)

    @property
    def in_channels(self) -> int:
        return self.channels + len(self.sees) * (self.channels + self.mask)

    def beside(self, context: Context) -> Tensor:
        return rearrange(self.observed(context), "b k c n -> b (k c) n")


def check_width(dim: int) -> None:
    if dim < 1:
        raise ValueError(f"condition.dim must be at least 1, got {dim}")


from latent_diffusion import implicit, spade, window  # noqa: E402, F401  (they register themselves; CONDITIONS must exist)
