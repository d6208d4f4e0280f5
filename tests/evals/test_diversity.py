import math
from itertools import combinations

import numpy as np
import pytest
import torch

from evals.diversity import Diversity, PerceptualDiversity
from evals.lpips import LPIPS


def run(frames, names):
    metric = Diversity()
    metric.update(torch.zeros_like(frames), frames, names)
    return metric.compute()


def test_it_is_the_deviation_of_a_pixel_over_the_samples():
    frames = torch.randint(0, 256, (6, 3, 4, 5, 3), dtype=torch.uint8)
    result = run(frames, ["a", "b", "a", "b", "a", "b"])
    variance = [frames[i::2].double().numpy().var(0, ddof=1).mean((1, 2, 3)) for i in range(2)]
    assert result["mean"] == pytest.approx(np.mean([math.sqrt(v.mean()) for v in variance]), rel=1e-12)
    assert result["per_frame"] == pytest.approx(np.mean(np.sqrt(variance), 0)) and result["n"] == 2


def test_pairs_differ_by_root_two_times_it():
    frames = torch.randint(0, 256, (4, 2, 3, 3, 1), dtype=torch.uint8)
    x = frames.double().flatten(1)
    pairs = [(x[i] - x[j]).square().mean() for i in range(4) for j in range(i)]
    assert run(frames, ["a"] * 4)["mean"] * math.sqrt(2) == pytest.approx(math.sqrt(np.mean(pairs)))


@pytest.mark.parametrize("value", [0, 255])
def test_equal_samples_have_none_at_all(value):
    assert run(torch.full((50, 2, 64, 64, 3), value, dtype=torch.uint8), ["a"] * 50)["mean"] == 0


def test_videos_with_one_sample_say_nothing():
    frames = torch.randint(0, 256, (3, 2, 3, 3, 1), dtype=torch.uint8)
    assert run(frames, ["a", "a", "b"])["n"] == 1
    with pytest.raises(ValueError, match="got 3 videos with one each"):
        run(frames, None)


def test_samples_of_other_sizes_are_refused():
    metric = Diversity()
    with pytest.raises(ValueError, match="samples of a have sizes"):
        for width in (3, 4):
            frames = torch.zeros(1, 2, 3, width, 1, dtype=torch.uint8)
            metric.update(frames, frames, ["a"])


# LPIPS

def drawn(count, seed=0, t=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, t, 40, 36, 3), generator=draw, dtype=torch.uint8)


def test_perceptual_diversity_is_lpips_of_all_pairs(small_nets):
    samples, metric, pairs = drawn(4), PerceptualDiversity(), LPIPS()
    for i, j in combinations(range(4), 2):
        pairs.update(samples[i:i + 1], samples[j:j + 1])
    metric.update(samples, samples, ["a"] * 4)
    wanted, result = pairs.compute(), metric.compute()
    assert result["mean"] == pytest.approx(wanted["mean"], rel=1e-5) and wanted["mean"] > 0.01
    assert result["per_frame"] == pytest.approx(wanted["per_frame"], rel=1e-5)
    assert result["samples_per_video"] == 4 and result["settings"] == wanted["settings"]


def test_perceptual_diversity_averages_over_videos_and_equal_samples_have_none(small_nets):
    samples, metric, alone = drawn(4), PerceptualDiversity(), PerceptualDiversity()
    metric.update(samples, samples[[0, 2, 1, 2]], ["a", "b", "a", "b"])
    alone.update(samples, samples[[0, 1, 3, 3]], ["a", "a", "b", "c"])
    assert metric.compute()["mean"] == pytest.approx(alone.compute()["mean"] / 2, rel=1e-9)  # the samples of b are equal


def test_perceptual_diversity_of_single_samples_names_itself(small_nets):
    metric = PerceptualDiversity()
    metric.update(drawn(1), drawn(1), ["a"])
    with pytest.raises(ValueError, match=r"diversity_lpips needs several samples .* leave diversity_lpips out"):
        metric.compute()
