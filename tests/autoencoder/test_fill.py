"""The nearest known frame, against a search over all of them, and what fills the missing ones."""

import pytest
import torch

from autoencoder.fill import fill_missing, nearest_index


def search(known):
    """For each frame the known frame at the least distance, the earlier of two; itself where none is known."""
    given = [i for i, k in enumerate(known) if k]
    return [min(given, key=lambda i: (abs(i - frame), i)) if given else frame for frame in range(len(known))]


@pytest.mark.parametrize("t", [1, 2, 3, 8])
def test_every_mask_agrees_with_a_search(t):
    masks = torch.tensor([[m >> i & 1 for i in range(t)] for m in range(2 ** t)], dtype=torch.bool)  # all of them
    assert nearest_index(masks).tolist() == [search(mask) for mask in masks.tolist()]


def test_known_frames_stay_and_unknown_ones_are_not_looked_at():
    clip = torch.randn(2, 3, 6, 2, 2)
    known = torch.tensor([[False, True, False, False, True, False], [False] * 6])
    filled = fill_missing(torch.where(known[:, None, :, None, None], clip, torch.nan), known)[0]
    assert torch.equal(filled[:, [1, 4]], clip[0, :, [1, 4]])
    assert torch.equal(filled[:, [0, 5]], clip[0, :, [1, 4]])  # before the first and after the last it stands still
    assert torch.equal(fill_missing(clip, known)[1], clip[1])  # nothing is known: as it is


@pytest.mark.parametrize("time", [None, torch.tensor([0, 1, 2, 3, 5, 9])])
def test_what_is_linear_in_time_between_known_frames_is_restored(time):
    at = torch.arange(6) if time is None else time
    clip = (torch.randn(2, 3, 1, 4, 4) + torch.randn(2, 3, 1, 4, 4) * at[:, None, None]).contiguous()
    known = torch.tensor([[True, False, True, False, False, True], [True, False, False, False, False, True]])
    spoiled = torch.where(known[:, None, :, None, None], clip, torch.nan)
    torch.testing.assert_close(fill_missing(spoiled, known, time), clip)
