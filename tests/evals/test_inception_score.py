import numpy as np
import pytest
import torch

from evals.inception_score import SPLITS, InceptionScore, score


@pytest.mark.parametrize("classes", [2, 10, 101])
def test_sure_and_even_scores_the_number_of_classes(classes):
    assert score(np.tile(np.eye(classes), (3, 1))) == pytest.approx(classes)


def test_all_alike_scores_one():
    assert score(np.full((5, 4), 0.25)) == pytest.approx(1) and score(np.tile([[1.0, 0, 0]], (5, 1))) == pytest.approx(1)


def test_it_is_the_exponential_of_the_mutual_information():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    entropy = lambda q: -(q * np.log(q)).sum(-1)  # noqa: E731
    assert score(p) == pytest.approx(np.exp(entropy(p.mean(0)) - entropy(p).mean()))


class Classes:
    """Says without doubt which class it is: the first pixel."""
    def __init__(self):
        self.settings = {"network": "first pixel"}

    def probabilities(self, frames):
        return torch.eye(4, dtype=torch.float64)[frames[:, 0, 0, 0, 0].long()]


@pytest.fixture
def metric(monkeypatch):
    monkeypatch.setattr("evals.inception_score.load_c3d", lambda path: Classes())
    return InceptionScore()


def videos(labels, seed=0):
    frames = torch.randint(0, 256, (len(labels), 2, 3, 3, 3), generator=torch.Generator().manual_seed(seed)).byte()
    frames[:, 0, 0, 0, 0] = torch.tensor(labels)
    return frames


def test_only_made_videos_count(metric):
    metric.update(videos([0] * 400), videos([0, 1, 2, 3] * 100))
    result = metric.compute()
    assert 3.5 < result["mean"] <= 4 and result["splits"] == SPLITS and result["n"] == 400
    assert 0 < result["ci95"] < 0.5 and "400 videos in 10 parts" in result["warnings"][0]


def test_parts_do_not_follow_the_order_of_the_videos(metric):
    # In order, each part would hold one class and score 1.
    metric.update(videos([0] * 80), videos(sorted([0, 1, 2, 3] * 20)))
    assert metric.compute()["mean"] > 2.5


def test_no_part_holds_a_single_video(metric):
    metric.update(videos([0] * 5), videos([0, 1, 2, 3, 0]))
    assert metric.compute()["splits"] == 2
