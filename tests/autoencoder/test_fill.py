"""The nearest known frame, against a search over all of them."""

import pytest
import torch

from autoencoder.fill import fill_nearest, nearest_index


def search(known):
    """For each frame the known frame at the least distance, the earlier of two; itself where none is known."""
    given = [i for i, k in enumerate(known) if k]
    return [min(given, key=lambda i: (abs(i - frame), i)) if given else frame for frame in range(len(known))]


@pytest.mark.parametrize("t", [1, 2, 3, 8])
def test_every_mask_agrees_with_a_search(t):
    masks = torch.tensor([[m >> i & 1 for i in range(t)] for m in range(2 ** t)], dtype=torch.bool)  # all of them
    assert nearest_index(masks).tolist() == [search(mask) for mask in masks.tolist()]


def test_known_frames_stay_and_unknown_ones_are_not_looked_at():
    clip = torch.randn(2, 3, 5, 2, 2)
    known = torch.tensor([[False, True, False, False, True], [False] * 5])
    spoiled = torch.where(known[:, None, :, None, None], clip, torch.nan)
    filled = fill_nearest(spoiled, known)
    assert torch.equal(filled[0], clip[0, :, [1, 1, 1, 4, 4]])
    assert torch.equal(fill_nearest(clip, known)[1], clip[1])  # nothing is known: as it is
