"""What is observed of a clip: missing frames are filled from the observed ones beside them."""

import torch
from torch import Tensor

from autoencoder.border import at_frames, nearest_known, side_weights


def nearest_index(known: Tensor) -> Tensor:
    """Return, for every frame, the index of the nearest known frame (the earlier of two equally near).

    Args:
        known: bool b t.

    Returns:
        int64 b t. Where nothing is known a frame stands for itself.
    """
    t = known.shape[1]
    left, right = nearest_known(known)
    frame = torch.arange(t, device=known.device).expand_as(known)
    from_left = (left >= 0) & ((right == t) | (frame - left <= right - frame))
    index = torch.where(from_left, left, right)
    return torch.where(known.any(1, keepdim=True), index, frame)


def fill_missing(clip: Tensor, known: Tensor, time: Tensor | None = None) -> Tensor:
    """Replace unknown frames: between two known ones by their linear blend, before the first and after the last by it.

    It is the best guess that needs no learning, and so what a network's output may be added to. The result holds still,
    blends and jumps, as no real video does: our own codecs see such clips in training.

    Args:
        clip: b c t h w; unknown frames may hold anything. Where nothing is known it stays as it is.
        known: bool b t.
        time: of each frame, t, ascending; evenly spaced if not given.
    """
    left, right = nearest_known(known)
    near, far = side_weights(left, right, time)
    index = nearest_index(known)  # in the place of a side that is missing, whose share is 0
    sides = [at_frames(clip, torch.where(share > 0, side, index)) * share.to(clip)[:, None, :, None, None]
             for side, share in ((left, near), (right, far))]
    return torch.where(known.any(1)[:, None, None, None, None], sides[0] + sides[1], clip)
