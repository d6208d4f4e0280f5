"""FVD on features that are easy to say: what is counted, the interval, what chance gives, and the warnings."""

import numpy as np
import pytest
import torch

from evals.frechet import GaussianStats, frechet_distance
from evals.fvd import FVD, GROUPS, FrechetVideoDistance, over_seeds


class Corners:
    """Describes a video by the first pixels of its first frame."""

    def __init__(self, dim):
        self.dim, self.settings = dim, {"network": "corners"}

    def features(self, frames):
        return frames[:, 0].flatten(1)[:, :self.dim].float()


def videos(rows, moving=True):
    """One video of two frames for each row of features in 0..255."""
    rows = torch.as_tensor(np.asarray(rows).round().clip(0, 255)).byte()
    frames = torch.zeros(len(rows), 2, 1, rows.shape[1], 1, dtype=torch.uint8)
    frames[:, 0, 0, :, 0] = rows
    frames[:, 1, 0, :, 0] = rows + (1 if moving else 0)
    return frames


def draw(rng, n, dim=4, mean=120.0, spread=20.0):
    return rng.normal(mean, spread, (n, dim))


def fvd(real, fake, names=None, dim=4, **options):
    metric = FrechetVideoDistance(Corners(dim), **options)
    metric.update(videos(real), videos(fake), names)
    return metric.compute()


def distance(x, y, ddof=1):
    sides = [GaussianStats(4), GaussianStats(4)]
    for side, rows in zip(sides, (x, y)):
        side.update(videos(rows)[:, 0].flatten(1).double())
    return frechet_distance(*sides, ddof=ddof)


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_is_the_distance_of_all_features(ddof):
    rng = np.random.default_rng(0)
    real, fake = draw(rng, 30), draw(rng, 30, mean=100)
    result = fvd(real, fake, ddof=ddof)
    assert result["mean"] == pytest.approx(distance(real, fake, ddof)) and result["settings"]["ddof"] == ddof
    assert result["n"] == result["n_real"] == 30


def test_a_true_video_counts_once_whatever_its_samples():
    rng = np.random.default_rng(1)
    real, fake = draw(rng, 10), draw(rng, 30)
    names = [f"v{i % 10}" for i in range(30)]
    result = fvd(np.tile(real, (3, 1)), fake, names)
    assert result["mean"] == pytest.approx(distance(real, fake)) and (result["n_real"], result["n"]) == (10, 30)


def test_two_clips_of_one_video_both_count():
    rng = np.random.default_rng(2)
    real, fake = draw(rng, 6), draw(rng, 6)
    assert fvd(real, fake, ["a", "a", "b", "b", "c", "c"])["n_real"] == 6


def test_trajectories_hold_one_sample_of_each_video():
    rng = np.random.default_rng(3)
    real, first = draw(rng, 12), draw(rng, 12, mean=140)
    metric = FrechetVideoDistance(Corners(4))
    names = [f"v{i}" for i in range(12)]
    metric.update(videos(real), videos(first), names)
    assert "trajectories" not in metric.compute()
    metric.update(videos(real), videos(first), names)  # the second sample is the first again
    found = metric.compute()["trajectories"]
    assert found["k"] == 2 and found["std"] == pytest.approx(0, abs=1e-9)
    assert found["mean"] == pytest.approx(distance(real, first))


def test_sides_may_have_any_number_of_videos():
    rng = np.random.default_rng(4)
    real, fake = draw(rng, 50), draw(rng, 20)
    metric = FrechetVideoDistance(Corners(4))
    metric.update_real(videos(real))
    metric.update_fake(videos(fake))
    result = metric.compute()
    assert result["mean"] == pytest.approx(distance(real, fake)) and (result["n_real"], result["n"]) == (50, 20)
    assert result["ci95"] > 0


@pytest.mark.parametrize("paired", [True, False])
def test_interval_is_as_wide_as_the_score_varies(paired):
    # Pairs move together, so their distance varies less; the jackknife leaves both out at once and must see it.
    rng, values, halves = np.random.default_rng(5), [], []
    for _ in range(100):
        real = draw(rng, 60)
        fake = real + rng.normal(8, 4, real.shape) if paired else draw(rng, 60, mean=128)
        result = fvd(real, fake)
        values.append(result["mean"])
        halves.append(result["ci95"])
    assert np.mean(halves) == pytest.approx(2.09 * np.std(values), rel=0.2)  # t of 19 degrees of freedom


@pytest.mark.parametrize("n", [2, 3, 25])
def test_every_group_is_left_out(n):
    rng = np.random.default_rng(6)
    result = fvd(draw(rng, n), draw(rng, n))
    assert (result["ci95"] is None) == (n == 2) and f"{GROUPS} groups" in result["interval"]


def test_chance_is_what_a_perfect_model_scores():
    rng = np.random.default_rng(7)
    results = []
    for _ in range(100):
        metric = FrechetVideoDistance(Corners(4))
        metric.update_real(videos(draw(rng, 80)))
        metric.update_fake(videos(draw(rng, 40)))
        results.append(metric.compute())
    assert np.mean([r["by_chance"] for r in results]) == pytest.approx(np.mean([r["mean"] for r in results]), rel=0.1)


def test_warnings_tell_of_few_still_and_repeated_videos():
    rng = np.random.default_rng(8)
    real, fake = draw(rng, 12), draw(rng, 12)
    fake[3], fake[7] = fake[2], real[1]
    metric = FrechetVideoDistance(Corners(4))
    metric.update(videos(real), videos(fake))
    metric.update_fake(videos(draw(rng, 2), moving=False))
    few, still, copies, equal = metric.compute()["warnings"]
    assert few.startswith("12 true and 14 made videos: a perfect model would score about") and "full rank" not in few
    assert still == "2 of 14 made videos do not move"
    assert copies == "1 of 14 made videos are copies of another one"
    assert equal == "1 of 14 made videos equal a true one"


def test_too_few_for_full_rank_is_said():
    rng = np.random.default_rng(9)
    assert "fewer than 5 leave covariances without full rank" in fvd(draw(rng, 4), draw(rng, 4))["warnings"][0]


def test_merging_does_not_count_a_true_video_twice():
    rng = np.random.default_rng(10)
    real, fakes = draw(rng, 8), draw(rng, 16)
    names, parts = [f"v{i}" for i in range(8)], [FrechetVideoDistance(Corners(4)) for _ in range(2)]
    for part, fake in zip(parts, (fakes[:8], fakes[8:])):
        part.update(videos(real, moving=False), videos(fake), names)
    parts[0].merge(parts[1])
    result = parts[0].compute()
    assert result["mean"] == pytest.approx(distance(real, fakes)) and "8 of 8 true videos do not move" in result["warnings"]


def test_one_video_is_no_set():
    with pytest.raises(ValueError, match=r"got 1 true video.*2048"):
        fvd([[1, 2, 3, 4]], [[1, 2, 3, 4]])


def test_over_seeds_is_a_t_interval():
    mean, half = over_seeds([10.0, 14.0])
    assert mean == 12 and half == pytest.approx(12.706 * 2, rel=1e-3)


def test_fvd_asks_for_its_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="download --name i3d"):
        FVD()
