"""Baselines against a search through the given frames."""

import numpy as np
import pytest
import torch
from fakes import video

from latent_diffusion.baselines import BASELINES, complete

MASKS = [[True, True, False, False], [False, False, True, False, False], [True, False, False, False, True, False],
         [False, True, False, True, True, False, False, True], [True] + [False] * 7, [False] * 6 + [True]]


def by_search(name, frames, known, i):
    """What frame i of one video (t h w c) must be."""
    given = [j for j, k in enumerate(known) if k]
    before, after = [j for j in given if j <= i], [j for j in given if j >= i]
    if name == "repeat_last" or not before or not after:
        return frames[before[-1] if before else after[0]]
    left, right = before[-1], after[0]
    if name == "nearest":
        return frames[left if i - left <= right - i else right]
    share = (i - left) / max(right - left, 1)
    return np.rint(frames[left] + share * (frames[right] - frames[left]))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("known", MASKS)
def test_every_frame_is_what_a_search_finds(name, known):
    frames = video(2, len(known), (3, 4))
    made = complete(name, frames, torch.tensor(known))
    assert made.dtype == torch.uint8 and made.shape == frames.shape
    for b in range(2):
        for i in range(len(known)):
            wanted = by_search(name, frames[b].numpy().astype(float), known, i)
            assert np.abs(made[b, i].numpy() - wanted).max() <= (name == "blend"), (name, known, i)


@pytest.mark.parametrize("name", BASELINES)
def test_known_frames_stay_and_others_are_not_looked_at(name):
    frames, known = video(2, 6, (3, 4)), torch.tensor([True, False, False, True, False, False])
    made = complete(name, frames, known)
    assert torch.equal(made[:, known], frames[:, known])
    spoiled = torch.where(known[None, :, None, None, None], frames, 255 - frames)
    assert torch.equal(complete(name, spoiled, known), made)


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_comes_from_nothing(name):
    with pytest.raises(ValueError, match="no given frames"):
        complete(name, video(1, 4), torch.zeros(4, dtype=torch.bool))


def test_a_blend_is_half_of_each_in_the_middle():
    frames = torch.zeros(1, 5, 2, 2, 1, dtype=torch.uint8)
    frames[:, 4] = 200
    made = complete("blend", frames, torch.tensor([True, False, False, False, True]))
    assert made[0, :, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="repeat_last"):
        complete("repeat_lst", video(1, 4), torch.tensor([True, False, False, False]))
