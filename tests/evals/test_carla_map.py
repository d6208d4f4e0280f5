"""Cells of the map: FDM's numbering, told by numpy's histogram."""

import numpy as np
import pytest
import torch
from PIL import Image

from evals.carla_map import TOWN01, draw_map


def test_a_cell_is_the_full_one_of_a_histogram_over_the_town():
    corners = [[-10, -10], [400, 400], [-10, 400], [31, 72], [30.999, 71.999], [0, 350.5]]
    places = np.concatenate([np.random.default_rng(0).uniform(-10, 400, (200, 2)), corners])
    for place, cell in zip(places, TOWN01.cells(torch.from_numpy(places)).tolist()):
        counts, _, _ = np.histogram2d(place[:1], place[1:], bins=10, range=[[-10, 400]] * 2)
        assert counts.ravel()[cell] == 1


def test_the_middle_of_each_cell_is_in_it_and_as_far_from_all_its_sides():
    centres = TOWN01.centres()
    assert torch.equal(TOWN01.cells(centres), torch.arange(TOWN01.count))
    for corner in ([0.5, 0.5], [-0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]):
        near = centres.double() + torch.tensor(corner) * (TOWN01.side - 1e-3)
        assert torch.equal(TOWN01.cells(near), torch.arange(TOWN01.count))


@pytest.mark.parametrize("place", [(-10.1, 0), (0, 400.1), (float("nan"), 0)])
def test_a_place_off_the_map_is_told(place):
    with pytest.raises(ValueError, match=r"the place \(.*\) is not on the map of Town01, -10 to 400 metres"):
        TOWN01.cells(torch.tensor([[1.0, 1.0], place]))


def test_trajectories_are_drawn_over_the_roads_and_at_their_place(tmp_path):
    roads = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])

    def ink(name, **over):
        draw_map(tmp_path / name, roads, {key: torch.tensor(value) for key, value in over.items()})
        return np.asarray(Image.open(tmp_path / name).convert("RGB"), np.int16)

    none, low, high = ink("none.png"), ink("low.png", car=[[50.0, 10.0]]), ink("high.png", car=[[50.0, 90.0]])
    rows = [np.argwhere((picture != none).any(-1))[:, 0] for picture in (low, high)]
    legend = set(rows[0]) & set(rows[1])
    assert min(set(rows[0]) - legend) > max(set(rows[1]) - legend)  # y points up
