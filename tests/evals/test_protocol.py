"""The contract of every metric, run over the registry, so that a new one is tested once it is registered."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import evals  # noqa: F401  (registers)
from evals.protocol import METRICS, ratio_estimate


@pytest.fixture(scope="module")
def pairs():
    draw = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (7, 5, 20, 16, 3), generator=draw, dtype=torch.uint8)
    noise = torch.randint(-30, 31, real.shape, generator=draw)
    return real, (real + noise * torch.arange(1, 8).view(-1, 1, 1, 1, 1) // 4).clamp(0, 255).byte()


def score(name, pieces, videos=None):
    metric = METRICS.bind(name)()
    start = 0
    for real, fake in pieces:
        metric.update(real, fake, videos=videos and videos[start:start + len(real)])
        start += len(real)
    return metric


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("videos", [None, ["a", "a", "b", "c", "b", "b", "d"]])
def test_any_batch_size_gives_the_same(name, videos, pairs):
    whole = score(name, [pairs], videos).compute()
    for size in (1, 2, 3):
        assert_same(score(name, zip(*(x.split(size) for x in pairs)), videos).compute(), whole)


@pytest.mark.parametrize("name", METRICS)
def test_merge_of_parts_equals_the_whole_in_any_order(name, pairs):
    whole = score(name, [pairs]).compute()
    parts = [score(name, [part]) for part in zip(*(x.split(3) for x in pairs))]
    total = METRICS.bind(name)()  # an empty one merges too
    for part in reversed(parts):
        total.merge(part)
    assert_same(total.compute(), whole)


@pytest.mark.parametrize("name", METRICS)
def test_the_result_says_mean_interval_and_count(name, pairs):
    result = score(name, [pairs]).compute()
    assert result["n"] == 7 and math.isfinite(result["mean"]) and 0 < result["ci95"] < math.inf
    assert score(name, [[x[:1] for x in pairs]]).compute()["ci95"] is None  # one video has no spread


@pytest.mark.parametrize("name", METRICS)
def test_updates_leave_the_frames_alone(name, pairs):
    before = [x.clone() for x in pairs]
    score(name, [pairs])
    assert all(torch.equal(a, b) for a, b in zip(pairs, before))


@pytest.mark.parametrize("name", METRICS)
def test_a_long_video_is_scored_in_pieces(name, pairs, monkeypatch):
    whole = score(name, [pairs]).compute()
    monkeypatch.setattr("evals.protocol._CHUNK", 4 * 20 * 16 * 3)  # 35 frames in pieces of four
    assert_same(score(name, [pairs]).compute(), whole)


def test_interval_is_the_students_t_of_the_textbook():
    values = [3.1, 2.7, 4.0, 3.3, 2.2]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    mean, half = ratio_estimate(values, [1] * 5)
    assert mean - half == pytest.approx(low) and mean + half == pytest.approx(high)


def test_interval_covers_the_truth_in_95_of_100_trials_with_correlated_samples():
    # Eight samples of each of ten videos share the video's own offset: the interval must not count them as 80.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        values = rng.normal(size=(10, 1)) + rng.normal(size=(10, 8))
        mean, half = ratio_estimate(values.sum(1), [8] * 10)
        hits += abs(mean) <= half
    assert 0.935 < hits / 2000 < 0.965
