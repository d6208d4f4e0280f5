"""The contract of every metric, run over the registry, so that a new one is tested once it is registered."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import evals  # noqa: F401  (registers)
from evals.protocol import METRICS, FrameMetric, ratio_estimate

SETS = {"fvd", "fvd_videomae"}  # need two videos at least
SAMPLES = {"diversity", "diversity_lpips"}  # need several samples of a video


@pytest.fixture(autouse=True)
def nets(small_nets):
    """Metrics with networks run on small ones here; their own tests take the true architectures."""


@pytest.fixture(scope="module")
def pairs():
    draw = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (7, 5, 20, 16, 3), generator=draw, dtype=torch.uint8)
    noise = torch.randint(-30, 31, real.shape, generator=draw)
    return real, (real + noise * torch.arange(1, 8).view(-1, 1, 1, 1, 1) // 4).clamp(0, 255).byte()


def names_for(name):
    return ["a", "a", "b", "c", "b", "b", "c"] if name in SAMPLES else None


def score(name, pieces, videos=None):
    metric = METRICS.bind(name)()
    start = 0
    for real, fake in pieces:
        metric.update(real, fake, videos=videos and videos[start:start + len(real)])
        start += len(real)
    return metric


def assert_same(a, b, rtol=1e-12):
    """Numbers to rounding, all else exactly."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key], rtol)
    elif isinstance(a, float) or (isinstance(a, list) and all(isinstance(x, (int, float)) for x in a)):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)
    else:
        assert a == b


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("videos", [None, ["a", "a", "b", "c", "b", "b", "d"]])
def test_any_batch_size_gives_the_same(name, videos, pairs):
    videos = videos or names_for(name)
    whole = score(name, [pairs], videos).compute()
    for size in (1, 2, 3):
        assert_same(score(name, zip(*(x.split(size) for x in pairs)), videos).compute(), whole)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("videos", [None, ["a", "a", "b", "c", "b", "b", "d"]])
def test_merge_of_parts_equals_the_whole_in_any_order(name, videos, pairs):
    videos = videos or names_for(name)
    whole = score(name, [pairs], videos).compute()
    parts = [score(name, [part], videos and videos[3 * i:]) for i, part in enumerate(zip(*(x.split(3) for x in pairs)))]
    total = METRICS.bind(name)()  # an empty one merges too
    for part in reversed(parts):
        total.merge(part)
    assert_same(total.compute(), whole)


@pytest.mark.parametrize("name", METRICS)
def test_the_result_says_mean_interval_and_count(name, pairs):
    result = score(name, [pairs], names_for(name)).compute()
    assert result["n"] == (3 if name in SAMPLES else 7)
    assert math.isfinite(result["mean"]) and 0 < result["ci95"] < math.inf


@pytest.mark.parametrize("name", METRICS)
def test_one_video_has_no_spread(name, pairs):
    metric = score(name, [[x[:1] for x in pairs]])
    if name in SETS | SAMPLES:
        with pytest.raises(ValueError, match=f"{'fvd' if name in SETS else name} .*, or leave"):
            metric.compute()
    else:
        assert metric.compute()["ci95"] is None


@pytest.mark.parametrize("name", METRICS)
def test_updates_leave_the_frames_alone(name, pairs):
    before = [x.clone() for x in pairs]
    score(name, [pairs])
    assert all(torch.equal(a, b) for a, b in zip(pairs, before))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_which_way_is_up(name, pairs):
    metric = METRICS.bind(name)
    assert metric.func.higher_is_better in (True, False, None)
    if metric.func.higher_is_better is not None and name != "inception_score":  # which does not look at the true videos
        real, fake = pairs
        good, bad = ((score(name, [(real, v)]).compute()["mean"]) for v in (fake, 255 - fake))
        assert (good > bad) == metric.func.higher_is_better


@pytest.mark.parametrize("name", METRICS)
def test_a_long_video_is_scored_in_pieces(name, pairs, monkeypatch):
    whole = score(name, [pairs], names_for(name)).compute()
    if issubclass(METRICS.get(name), FrameMetric):
        monkeypatch.setattr(METRICS.get(name), "at_once", lambda *size: 2)  # 5 frames in three pieces
    assert_same(score(name, [pairs], names_for(name)).compute(), whole, rtol=1e-6)  # products of other sizes round otherwise


class Offset(FrameMetric):
    """How much higher the made video is."""

    def score(self, seen, fake):
        return (fake.double() - seen.double()).mean((2, 3, 4))


@pytest.mark.parametrize("names, looks", [(["a", "a", "b", "b", "a"], [0, 2, 4]), ([None] * 5, [0, 1, 2, 3, 4]),
                                          (["a"] * 5, [0, 2])])
def test_a_true_video_is_looked_at_once_for_samples_that_follow_each_other(names, looks, monkeypatch):
    seen = []
    monkeypatch.setattr(Offset, "see", lambda self, real: seen.append(int(real[0, 0, 0, 0])) or real, raising=False)
    values = torch.tensor([0, 0, 2, 2, 0]) if names[-1] else torch.arange(5)
    real = values.byte().view(5, 1, 1, 1, 1).expand(5, 3, 2, 2, 1)
    metric = Offset()
    metric.update(real, torch.full_like(real, 9), videos=names if names[-1] else None)
    assert seen == [int(values[i]) for i in looks]
    assert [row.tolist() for _, row in metric._rows] == [[9 - int(value)] * 3 for value in values]


class Distance(Offset):
    higher_is_better = False


def offsets(metric, *videos):
    """Score videos, each (name, offset of each frame)."""
    for name, rows in videos:
        real = torch.zeros(1, len(rows), 2, 2, 1, dtype=torch.uint8)
        metric.update(real, real + torch.tensor(rows, dtype=torch.uint8).view(1, -1, 1, 1, 1), videos=[name])
    return metric


def test_best_of_k_takes_the_best_video_not_the_best_frames():
    videos = [("a", [1, 9]), ("a", [4, 4]), ("b", [2, 0]), ("a", [0, 7]), ("b", [3, 1])]
    high, low = offsets(Offset(), *videos).compute(), offsets(Distance(), *videos).compute()
    assert high["best_of_k"]["mean"] == (5 + 2) / 2 and high["best_of_k"]["per_frame"] == [(1 + 3) / 2, (9 + 1) / 2]
    assert low["best_of_k"]["mean"] == (3.5 + 1) / 2 and low["best_of_k"]["per_frame"] == [(0 + 2) / 2, (7 + 0) / 2]
    assert high["best_of_k"]["k"] == 2 and high["mean"] == low["mean"] == (5 + 4 + 3.5 + 1 + 2) / 5


def test_the_headline_is_the_best_sample_where_asked():
    metric = offsets(Offset(), ("a", [1]), ("a", [4]), ("b", [2]))
    best = metric.compute(samples="best")
    assert best["mean"] == 3 and best["n"] == 3 and best["ci95"] == metric.compute()["best_of_k"]["ci95"]
    with pytest.raises(ValueError, match='mean, best, got "worst"'):
        metric.compute(samples="worst")


def test_unnamed_videos_are_not_samples_of_one():
    assert "best_of_k" not in offsets(Offset(), (None, [1]), (None, [4])).compute()


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
