"""The condition of many clips at once: the slots of a window attend to each other (FDM, RaMViD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from autoencoder.planes import PlaneShape
from latent_diffusion.condition import CONDITIONS, Concat, Context
from latent_diffusion.cross_slot import Memory, SlotView
from latent_diffusion.masks import Uniform, fdm_sets

if TYPE_CHECKING:
    from latent_diffusion.denoiser import LatentDenoiser

SPACINGS = ("contiguous", "gaps")
LEVELS = ("shared", "own")


class Laid(NamedTuple):
    """The clips of a training window."""
    starts: list[int]        # first frames, ascending
    observed: Tensor | None  # bool t: frames of those that FDM's task observes; None where the clips lie side by side


class WindowContext(NamedTuple):
    """What is known of the slots of a window, in any order."""
    latents: Tensor  # b s c n: of the known frames, missing ones filled from all that the window knows; zero if it is none
    known: Tensor    # b s f bool: which of its frames are known
    start: Tensor    # b s: its first frame; only differences matter
    there: Tensor    # b s bool: the others are padding
    level: Tensor | float = 0.0  # b s, or one for all: sigma of the noise in the latents (see Condition.noised), 0 = clean

    @property
    def whole(self) -> Tensor:
        """Slots that are known as a whole, b s: they are shown clean and nothing is made of them."""
        return self.known.all(-1) & self.there

    @property
    def targets(self) -> Tensor:
        """Slots that are made, b s."""
        return self.there & ~self.whole

    def part(self, which: slice) -> WindowContext:
        """Some of the slots."""
        level = self.level if isinstance(self.level, float) else self.level[:, which]
        return WindowContext(*(value[:, which] for value in self[:4]), level)


@CONDITIONS.register("window")
class Window(Concat):
    """All slots of a window at once; each sees what is known of itself on its channels, and the others by attention.

    Several targets are made together. What is known may lie at any distance, and costs its share once for a window,
    not in every evaluation (see cross_slot.py).

    Args:
        slots: the most clips of a window.
        overlap: frames that neighbouring clips share.
        spacing: of a training window's clips: "contiguous", or "gaps": groups of evenly spaced ones anywhere in a stretch
            of `reach` clips (FDM's training task, see masks.fdm_sets; what it observes is known with mask=fdm).
        reach: clips of a training stretch; 0 = `slots`, or four times as many with gaps.
        fewer: share of contiguous windows that hold fewer clips, any number alike, so that a start from little is trained.
        levels: noise of the targets of a training window: "shared" as in sampling, or each its "own".
        residual, null_token, history: see Condition.
    """

    observes = True

    def __init__(self, shape: PlaneShape, channels: int, frames: int, *, slots: int = 4, overlap: int = 1,
                 spacing: str = "contiguous", reach: int = 0, fewer: float = 0.25, levels: str = "shared",
                 residual: bool = False, null_token: bool = False, history: bool = False):
        super().__init__(shape, channels, frames, sees=("self",), mask=True, residual=residual, null_token=null_token,
                         history=history)
        if slots < 1:
            raise ValueError(f"condition.slots must be at least 1, got {slots}")
        if not 0 <= overlap < max(frames, 2):
            raise ValueError(f"condition.overlap must lie in 0..{frames - 1} for clips of {frames} frames, got {overlap}")
        for name, value, valid in (("spacing", spacing, SPACINGS), ("levels", levels, LEVELS)):
            if value not in valid:
                raise ValueError(f"condition.{name} must be one of {', '.join(valid)}, got {value!r}")
        if not 0 <= fewer <= 1:
            raise ValueError(f"condition.fewer is a share, 0 to 1, got {fewer}")
        if reach and (reach < slots or spacing == "contiguous"):
            raise ValueError(f"condition.reach={reach} is for spacing=gaps and at least condition.slots={slots}; leave it out")
        self.slots, self.overlap, self.spacing = slots, min(overlap, frames - 1), spacing
        self.fewer, self.levels_of_targets = fewer, levels
        self.reach = reach or slots * (4 if spacing == "gaps" else 1)

    @property
    def span(self) -> int:
        return self.reach

    @property
    def stretch(self) -> int:
        return self.frames + (self.reach - 1) * self.pace

    @property
    def pace(self) -> int:
        """Frames from one clip to the next."""
        return self.frames - self.overlap

    def lay(self, frames: int, draw: Uniform) -> Laid:
        """Draw the clips of a training window in a stretch of so many frames."""
        fit = min((frames - self.frames) // self.pace + 1, self.reach)
        assert fit >= 1, f"{frames} frames hold no clip of {self.frames}"
        if self.spacing == "gaps":
            return self._groups(frames, *fdm_sets(fit, draw, self.slots))
        count = min(self.slots, fit)
        if draw() < self.fewer:
            count = 1 + int(draw() * count)
        first = int(draw() * (fit - count + 1))
        return Laid([self.pace * i for i in range(first, first + count)], None)

    def _groups(self, frames: int, observed: Tensor, made: Tensor) -> Laid:
        """Clips by their numbers (bool n), those that are observed and those that are made."""
        known = torch.zeros(frames, dtype=torch.bool)
        clips = [slice(self.pace * i, self.pace * i + self.frames) for i in range(len(made))]
        for i in observed.nonzero().flatten().tolist():
            known[clips[i]] = True
        if all(known[clips[i]].all() for i in made.nonzero().flatten().tolist()):
            known[:] = False  # an overlap of half a clip or more: clips on either side cover all that is made
        return Laid([self.pace * i for i in (observed | made).nonzero().flatten().tolist()], known)

    def nothing(self, batch: int, device: torch.device, slots: int | None = None) -> WindowContext:
        """A window of neighbouring clips of which nothing is known."""
        slots = slots or self.slots
        start = self.pace * torch.arange(slots, dtype=torch.float32, device=device)
        return WindowContext(torch.zeros(batch, slots, self.channels, self.shape.total, device=device),
                             torch.zeros(batch, slots, self.frames, dtype=torch.bool, device=device),
                             start.repeat(batch, 1), torch.ones(batch, slots, dtype=torch.bool, device=device))

    def unseen(self, context: WindowContext) -> WindowContext:
        """The same window with nothing known: what is made stays where it is."""
        return context._replace(latents=torch.zeros_like(context.latents), known=torch.zeros_like(context.known),
                                there=context.targets, level=0.0)

    def absent(self, known: Tensor) -> Tensor:
        """Where nothing is there to be seen, b s: a slot is filled from all that its window knows."""
        return ~known.flatten(1).any(1, keepdim=True).expand(known.shape[:2])

    def base(self, context: WindowContext) -> Tensor | float:
        """What the network's output is added to, b s c n."""
        return context.latents if self.residual else 0.0

    def each(self, context: WindowContext) -> Context:
        """The slots as samples of their own, each of which sees itself: b s ... -> (b s) 1 ..."""
        return Context(context.latents.flatten(0, 1)[:, None], context.known.flatten(0, 1)[:, None],
                       self.levels(context).flatten()[:, None])

    def shown(self, z: Tensor, context: WindowContext) -> Tensor:
        """Noisy latents, or in place of them the given ones of slots that are known as a whole, b s c n."""
        return torch.where(context.whole[:, :, None, None], context.latents.to(z), z)


class PreparedWindow(NamedTuple):
    """All that the network takes from a context and does not depend on z or t."""
    context: WindowContext  # of the slots that go through the network
    beside: Tensor          # (b s) c n: channels beside z
    extra: Tensor           # (b s) e: added to the embedding of t
    view: SlotView


def prepare_window(net: LatentDenoiser, context: WindowContext | None, like: Tensor, keep: bool) -> PreparedWindow:
    """Read a context, and send the slots that z does not hold through the network once.

    Args:
        context: its last slots are those of z; the ones before are known as a whole (or padding).
        like: the z to come, b s c n.
        keep: remember what each layer makes of the places, too.
    """
    slots = like.shape[1]
    context = context or net.condition.nothing(len(like), like.device, slots)
    given = context.start.shape[1] - slots
    assert given >= 0, f"z has {slots} slots, the context {context.start.shape[1]}"
    first, context = context.part(slice(given)), context.part(slice(given, None))
    assert not first.targets.any(), "z must hold all slots that are not known as a whole"
    memory = _remember(net, first, like) if first.there.any() else None
    return _read(net, context, like, memory, keep)


def _read(net: LatentDenoiser, context: WindowContext, like: Tensor, memory: Memory | None, keep: bool) -> PreparedWindow:
    each = net.condition.each(context)
    view = SlotView(net.shape, net.unet.groups, net.frames, context.start, context.whole, context.there, memory, keep)
    return PreparedWindow(context, net.condition.beside(each).to(like), net.told(each, like), view)


def _remember(net: LatentDenoiser, context: WindowContext, like: Tensor) -> Memory:
    seen = _read(net, context, like, None, keep=False)
    x = torch.cat([context.latents.to(like).flatten(0, 1), seen.beside], dim=1)
    return net.unet.remember(x, torch.zeros(len(x), device=x.device), seen.extra, seen.view)


def run_window(net: LatentDenoiser, z: Tensor, t: Tensor, seen: PreparedWindow) -> Tensor:
    """The network's output for every slot of z, b s c n; what it says of known ones and of padding means nothing.

    Args:
        t: b or b s, level labels; known slots have 0, whatever it says.
    """
    whole, base = seen.context.whole, net.condition.base(seen.context)
    t = torch.where(whole, 0.0, (t if t.dim() == 2 else t[:, None]).expand(whole.shape))
    x = torch.cat([net.condition.shown(z, seen.context).flatten(0, 1), seen.beside], dim=1)
    return base + net.unet(x, t.flatten(), seen.extra, slots=seen.view).unflatten(0, z.shape[:2])

