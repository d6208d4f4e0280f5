"""Training windows of the condition `window`: which clips of a stretch, what of them is known, and their latents."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from autoencoder.border import at_frames
from autoencoder.codec import Codec
from autoencoder.fill import fill_missing
from latent_diffusion.window import Window, WindowContext
from tools.rng import rand


class Layout(NamedTuple):
    """Clips of training windows, a fixed number of slots of each; all on the CPU."""
    start: Tensor  # b s int: first frames in the stretch; 0 where there is no clip
    there: Tensor  # b s bool
    known: Tensor  # b s f bool


def lay_out(condition: Window, starts: list[list[int]], known: list[Tensor]) -> Layout:
    """Put the clips of each sample and the frames known of its stretch (bool t) into slots."""
    there = torch.tensor([[i < len(row) for i in range(condition.slots)] for row in starts])
    start = torch.tensor([row + [0] * (condition.slots - len(row)) for row in starts])
    frame = start[:, :, None] + torch.arange(condition.frames)
    shown = torch.stack(known)[torch.arange(len(known))[:, None, None], frame]
    return Layout(start, there, shown & there[:, :, None])


def _seen_frames(layout: Layout, frames: int) -> Tensor:
    """Frames of the stretches that some slot shows, bool b t."""
    frame = layout.start[:, :, None] + torch.arange(layout.known.shape[-1])
    counts = torch.zeros(len(frame), frames, dtype=torch.int).scatter_add_(1, frame.flatten(1), layout.known.flatten(1).int())
    return counts > 0


def place_draws(seed: int, stream: str, index: int, frames: int) -> Iterator[float]:
    """Where the clips of a sample lie."""
    return iter(rand((4 * frames + 64,), seed, stream, "slots", index).tolist())


def encode_window(codec: Codec, clip: Tensor, layout: Layout) -> tuple[Tensor, WindowContext]:
    """Latents of the true clips (b s c n, zeros for padding), and what is known of them.

    Args:
        clip: b c t h w, the stretches.
    """
    slots, device = layout.start.shape[1], clip.device
    frame = (layout.start[:, :, None] + torch.arange(codec.frames)).flatten(1).to(device)

    def cut(stretch: Tensor) -> Tensor:  # b c t h w -> (b s) c f h w
        return at_frames(stretch, frame).unflatten(2, (slots, codec.frames)).transpose(1, 2).flatten(0, 1)

    clips, seen_frames = cut(clip), _seen_frames(layout, clip.shape[2])
    there, known = layout.there.flatten(), layout.known.flatten(0, 1)
    latent = clip.new_zeros(len(clips), codec.channels, codec.shape.total)
    rows = there.nonzero()[:, 0].to(device)
    latent[rows] = codec.encode(clips[rows])
    seen = torch.where(known.all(-1).to(device)[:, None, None], latent, 0.0)
    missing = (there & ~known.all(-1) & seen_frames.any(1).repeat_interleave(slots)).nonzero()[:, 0]
    if len(missing):
        rows = missing.to(device)
        seen[rows] = codec.encode(cut(fill_missing(clip, seen_frames.to(device)))[rows])
    context = WindowContext(seen.unflatten(0, (-1, slots)), layout.known.to(device), layout.start.to(device).float(),
                            layout.there.to(device))
    return latent.unflatten(0, (-1, slots)), context
