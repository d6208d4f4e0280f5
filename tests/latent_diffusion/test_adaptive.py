"""Adaptive schemes: the windows of FDM, farthest points by hand, and distances by their definition."""

import pytest
import torch

from latent_diffusion.adaptive import feature_distance, most_unlike, pixel_distance
from latent_diffusion.schemes import SCHEMES, is_adaptive, plan, windows

ADAPTIVE = [name for name in SCHEMES if is_adaptive(name)]

# measured on the FDM reference, 30 frames of which 4 are known, window 8, stride 4: observed -> target
TRACES = {
    "adaptive-autoreg": [
        ({0, 1, 2, 3}, range(4, 8)), ({0, 1, 6, 7}, range(8, 12)), ({0, 5, 10, 11}, range(12, 16)),
        ({8, 11, 14, 15}, range(16, 20)), ({11, 13, 16, 19}, range(20, 24)), ({11, 13, 18, 23}, range(24, 28)),
        ({21, 24, 26, 27}, range(28, 30))],
    "adaptive-hierarchy-2": [
        ({0, 1, 2, 3}, {4, 12, 21, 29}), ({0, 3, 4, 12}, range(5, 9)), ({7, 8, 12, 21}, {9, 10, 11, 13}),
        ({11, 12, 13, 21}, range(14, 18)), ({16, 17, 21, 29}, {18, 19, 20, 22}), ({0, 21, 22, 29}, range(23, 27)),
        ({11, 25, 26, 29}, {27, 28})]}


@pytest.mark.parametrize("name, wanted", TRACES.items())
def test_windows_are_those_of_fdm(name, wanted):
    made = plan(name, 30, range(4), lambda i, j: (7 * i % 13 - 7 * j % 13) ** 2, window=8, stride=4)
    assert [(set(w.observed), set(w.target)) for w in made] == [(observed, set(target)) for observed, target in wanted]


@pytest.mark.parametrize("count, wanted", [(1, [0]), (2, [0, 16]), (3, [0, 16, 8]), (5, [0, 16, 8, 4, 12])])
def test_farthest_points_of_a_line_halve_it(count, wanted):
    assert most_unlike([0], range(17), count, lambda i, j: abs(i - j)) == wanted


def test_of_equally_far_candidates_the_first_is_taken():
    assert most_unlike([5], [8, 2, 5, 3], 3, lambda i, j: 1.0) == [5, 8, 2]


def test_chosen_ones_are_kept_or_cut_but_not_more_than_there_are():
    assert most_unlike([4, 9], [1, 2], 1, lambda i, j: 1 / 0) == [4]
    assert most_unlike([4], [4, 2], 9, lambda i, j: 1.0) == [4, 2]


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("odd", [3, 11])
def test_the_one_frame_unlike_all_others_is_always_seen(name, odd):
    frames = torch.zeros(40, 8, 8, 3, dtype=torch.uint8)
    frames[odd] = 200
    made = plan(name, 40, range(12), pixel_distance(frames), window=14, stride=4)
    assert all(odd in window.observed for window in made)
    plain = plan(name.removeprefix("adaptive-"), 40, range(12), window=14, stride=4)
    assert not all(odd in window.observed for window in plain)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_window_is_worked_out_from_the_frames_there_are_when_it_is_drawn(name):
    # The second video is filled in while its windows are drawn, as sampling does.
    whole = torch.randint(256, (30, 6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    growing = torch.zeros_like(whole)
    growing[:4] = whole[:4]
    for window, wanted in zip(windows(name, 30, range(4), pixel_distance(growing), window=8, stride=3),
                              plan(name, 30, range(4), pixel_distance(whole), window=8, stride=3), strict=True):
        assert window == wanted
        growing[window.target] = whole[window.target]


def test_features_are_compared_by_their_mean_square_and_asked_for_once():
    features, asked = torch.randn(4, 3, 5, dtype=torch.float64), []
    distance = feature_distance(lambda frame: asked.append(frame) or features[frame])
    for i in range(4):
        for j in range(4):
            assert distance(i, j) == pytest.approx(float(((features[i] - features[j]) ** 2).mean()), abs=1e-6)
    assert sorted(asked) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (16, 16), (64, 48)])
def test_plain_grey_frames_are_as_far_apart_as_their_grey(size):
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None, None].expand(3, *size, 3)
    distance = pixel_distance(frames)
    assert [distance(0, 1), distance(1, 2), distance(0, 2), distance(2, 2)] == pytest.approx([0.04, 0.64, 1, 0])


def test_a_thumbnail_sees_things_move_but_no_fine_pattern():
    frames = torch.full((3, 64, 64, 1), 100, dtype=torch.uint8)
    frames[1, ::2], frames[1, 1::2] = 90, 110
    frames[2, 16:32, 16:32] = 202
    distance = pixel_distance(frames)
    assert distance(0, 1) == pytest.approx(0) and distance(0, 2) == pytest.approx(0.4 ** 2 / 16)
