"""Changes of training clips, drawn per sample so that a clip is changed alike in any batch."""

import torch
from torch import Tensor

from autoencoder.fill import fill_missing
from tools.rng import batch_rand


def augment(clip: Tensor, index: Tensor, seed: int, *, flip: float = 0.0, reverse: float = 0.0, shift: int = 0,
            held: float = 0.0) -> Tensor:
    """Flip, translate and, for a share of the clips, hold frames still.

    Args:
        clip: b c t h w.
        index: global sample indices, b: with the seed, all that the changes depend on.
        flip: probability of a horizontal flip.
        reverse: probability of playing backward.
        shift: largest translation in pixels, along each axis; edges are repeated.
        held: share of clips of which a random subset of frames stays and the others are filled from these.
    """
    t = clip.shape[2]
    draws = batch_rand((6 + t,), index, seed, "augment").to(clip.device)  # b 6+t
    if flip:
        clip = torch.where(draws[:, 0].lt(flip)[:, None, None, None, None], clip.flip(-1), clip)
    if reverse:
        clip = torch.where(draws[:, 5].lt(reverse)[:, None, None, None, None], clip.flip(2), clip)
    if shift:
        moves = (draws[:, 1:3] * (2 * shift + 1)).long().clamp(max=2 * shift) - shift  # b 2
        clip = translate(clip, moves[:, 0], moves[:, 1])
    if held and t > 1:
        known = draws[:, 6:] < draws[:, 4:5]                           # any number of frames, none to all
        known |= ~(draws[:, 3:4] < held) | ~known.any(1, keepdim=True)  # most clips stay as they are
        clip = fill_missing(clip, known)
    return clip


def translate(clip: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each clip (b c t h w) by whole pixels (b), repeating its edges."""
    h, w = clip.shape[-2:]
    rows = (torch.arange(h, device=clip.device) - down[:, None]).clamp(0, h - 1)    # b h
    columns = (torch.arange(w, device=clip.device) - right[:, None]).clamp(0, w - 1)  # b w
    clip = clip.gather(3, rows[:, None, None, :, None].expand_as(clip))
    return clip.gather(4, columns[:, None, None, None, :].expand_as(clip))
