"""Frames of a batch by number: what is put is found, and what is dropped takes no memory."""

import pytest
import torch

from latent_diffusion.film import Film


@pytest.fixture
def film():
    """Frames 1 and 3 of five are given: of level 10 and 30 in the first video, 11 and 31 in the second."""
    levels = torch.tensor([[10, 30], [11, 31]], dtype=torch.uint8)
    return Film(levels[:, :, None, None, None].expand(2, 2, 3, 4, 1), torch.tensor([False, True, False, True, False]))


def levels(frames):
    assert frames.shape[2:] == (3, 4, 1)
    return frames[..., 0, 0, 0].tolist()


def test_frames_are_found_by_number_and_others_are_blank(film):
    assert levels(film.stretch([0, 1, 3, 4])) == [[0, 10, 30, 0], [0, 11, 31, 0]]
    assert levels(film.stretch(range(-2, 2))) == [[0, 0, 0, 10], [0, 0, 0, 11]] and len(film) == 2


def test_what_is_put_is_kept_without_its_neighbours(film):
    made = torch.full((2, 100, 3, 4, 1), 7, dtype=torch.uint8)
    film.put([4, 0], made[:, :2])
    assert levels(film.stretch([0, 3, 4])) == [[7, 30, 7], [7, 31, 7]]
    assert film.frames[4].untyped_storage().nbytes() == 2 * 3 * 4


def test_the_dead_are_forgotten(film):
    film.drop(lambda number: number < 2)
    assert list(film.frames) == [3] and levels(film.stretch([1, 3])) == [[0, 30], [0, 31]]


def test_known_frames_are_as_many_as_are_given():
    with pytest.raises(AssertionError, match="3 frames given for 1 known ones"):
        Film(torch.zeros(1, 3, 2, 2, 1, dtype=torch.uint8), torch.tensor([True, False]))
