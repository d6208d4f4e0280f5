"""What a window of a video that is being made shows to the condition `window`."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from latent_diffusion.slots import Grid
from latent_diffusion.window import Window, WindowContext

Latent = Callable[[int, Tensor, Tensor | None], Tensor | None]


def window_context(condition: Window, grid: Grid, observed: Sequence[Sequence[int]], targets: Sequence[int], done: Tensor,
                   latent: Latent, device: torch.device) -> WindowContext:
    """Observed clips, those of each video first and padded to as many, and then the targets.

    Args:
        observed: clips of each video, all finished.
        done: bool t, which frames are finished.
        latent: (first frame, done, beside) -> b c n of a clip's finished frames, missing ones filled from them and from
            those of the frames `beside`; None if there is none.
    """
    batch, most = len(observed), max(map(len, observed), default=0)
    context = condition.nothing(batch, device, most + len(targets))
    starts = torch.zeros(batch, most + len(targets))
    context.there[:, :most] = False

    @cache
    def look(slot: int, beside: tuple[int, ...] = ()) -> Tensor | None:
        frames = torch.tensor([frame for other in beside for frame in grid.span(other)], dtype=torch.long)
        return latent(grid.starts[slot], done, frames)

    for i in range(most):
        for row, slots in enumerate(observed):
            if i < len(slots):
                context.latents[row, i] = look(slots[i])[row]
                context.known[row, i], starts[row, i] = True, grid.starts[slots[i]]
                context.there[row, i] = True
    for i, slot in enumerate(targets, most):
        context.known[:, i] = done[list(grid.span(slot))].to(device)
        starts[:, i] = grid.starts[slot]
        for row, slots in enumerate(observed):
            seen = look(slot, (*slots, *targets))
            if seen is not None:
                context.latents[row, i] = seen[row]
    return context._replace(start=starts.to(device))
