"""What is observed of a clip: missing frames are filled from the nearest observed one."""

import torch
from torch import Tensor

from autoencoder.border import at_frames, nearest_known


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


def fill_nearest(clip: Tensor, known: Tensor) -> Tensor:
    """Replace each unknown frame of `clip` (b c t h w) by the nearest known one (`known`: bool b t).

    The result holds still and jumps, as no real video does: our own codecs see such clips in training.
    """
    return at_frames(clip, nearest_index(known))
