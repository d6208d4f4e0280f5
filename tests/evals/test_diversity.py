import math

import numpy as np
import pytest
import torch

from evals.diversity import Diversity


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
