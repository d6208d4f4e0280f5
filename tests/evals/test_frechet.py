from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from evals.frechet import GaussianStats, chance_distance, frechet_distance

GOLDEN = Path(__file__).parents[1] / "golden" / "frechet.npz"


def stats(features, batch=None):
    s = GaussianStats(features.shape[1])
    for start in range(0, len(features), batch or len(features)):
        s.update(features[start:start + (batch or len(features))])
    return s


def exact(mean, covariance):
    """Statistics with this very mean and covariance (n = 2 cancels the n - 1)."""
    s = GaussianStats(len(mean))
    s.n, s.mean, s.scatter = 2, np.asarray(mean, float), np.asarray(covariance, float)
    return s


def test_golden_distance():
    golden = np.load(GOLDEN)
    distance = frechet_distance(stats(golden["features_a"], 7), stats(golden["features_b"], 64))
    assert distance == pytest.approx(float(golden["frechet"]), rel=1e-9)


def test_closed_form_of_commuting_covariances():
    # In one eigenbasis: |m - n|^2 + sum (sqrt a - sqrt b)^2.
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    a, b, m, n = rng.uniform(0.1, 9, 6), rng.uniform(0.1, 9, 6), rng.normal(size=6), rng.normal(size=6)
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    s, t = exact(m, basis * a @ basis.T), exact(n, basis * b @ basis.T)
    assert frechet_distance(s, t) == pytest.approx(expected, rel=1e-12)


def test_general_covariances_agree_with_scipys_square_root():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 9)) @ rng.normal(size=(9, 9)), rng.normal(size=(50, 9)) + 0.3
    c, d = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    assert frechet_distance(stats(x), stats(y)) == pytest.approx(expected, rel=1e-9)


def high_precision(x, y):
    """The distance with 50 digits: tr (C D)^(1/2) is the sum of the singular values of A B^T with A^T A = C, B^T B = D."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        means, roots = [], []
        for rows in (x, y):
            matrix = mpmath.matrix(rows.tolist())
            means.append([mpmath.fsum(matrix[:, j]) / len(rows) for j in range(matrix.cols)])
            for i in range(matrix.rows):
                for j in range(matrix.cols):
                    matrix[i, j] = (matrix[i, j] - means[-1][j]) / mpmath.sqrt(len(rows) - 1)
            roots.append(matrix)
        overlap = mpmath.fsum(mpmath.svd_r(roots[0] * roots[1].T, compute_uv=False))
        squares = mpmath.fsum(v ** 2 for root in roots for v in root)
        return float(mpmath.fsum((a - b) ** 2 for a, b in zip(*means)) + squares - 2 * overlap)


@pytest.mark.parametrize("n, d", [(6, 14), (14, 6)])
@pytest.mark.parametrize("noise", [1, 1e-3, 1e-5])
def test_equals_fifty_digits_also_for_sets_that_are_close(n, d, noise):
    # Eigenvalues over eight orders, and a distance down to 1e-10 of the variance: a difference of traces keeps none of it.
    rng = np.random.default_rng(8)
    x = rng.normal(size=(n, d)) * np.logspace(0, -4, d) + 3
    y = x + noise * rng.normal(size=x.shape)
    assert frechet_distance(stats(x), stats(y)) == pytest.approx(high_precision(x, y), rel=1e-6)


@pytest.mark.parametrize("n, m", [(150, 150), (120, 600)])
def test_chance_is_the_mean_distance_of_sets_of_one_gaussian(n, m):
    rng = np.random.default_rng(9)
    scale = np.array([3.0, 1, 1, 0.3, 0.1])
    found = [frechet_distance(stats(rng.normal(size=(n, 5)) * scale), stats(rng.normal(size=(m, 5)) * scale))
             for _ in range(1000)]
    assert chance_distance(exact(np.zeros(5), np.diag(scale ** 2)), n, m) == pytest.approx(np.mean(found), rel=0.08)


def test_chance_of_known_features():
    # 400 unit eigenvalues, 2048 a side: 2 / 2048 (400 + (400^2 + 400) / 4)
    assert chance_distance(exact(np.zeros(400), np.eye(400)), 2048, 2048) == pytest.approx(40500 / 1024)


def test_fewer_samples_than_features():
    # Rank one against rank one: the covariances are u u^T and v v^T, so the overlap is |u . v|.
    u, v = np.random.default_rng(2).normal(size=(2, 40))
    s, t = stats(np.stack([u, -u]) / np.sqrt(2)), stats(np.stack([v, -v]) / np.sqrt(2))
    assert frechet_distance(s, t) == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-6)


@pytest.mark.parametrize("n", [3, 500])
def test_a_set_has_no_distance_from_itself(n):
    s = stats(np.random.default_rng(3).normal(size=(n, 20)))
    assert frechet_distance(s, s) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_streaming_survives_a_mean_far_from_zero(batch):
    # Sums of squares of 1e8 keep no digit of a unit variance.
    features = np.random.default_rng(4).normal(size=(100, 5))
    far, near = stats(features + 1e8, batch), stats(features)
    np.testing.assert_allclose(far.covariance(), near.covariance(), atol=1e-6)


def test_merge_equals_the_whole_in_any_order():
    features = np.random.default_rng(5).normal(size=(50, 4)) * [1, 10, 100, 0.1] + 7
    whole, merged = stats(features), GaussianStats(4)
    for part in (features[30:], features[:0], features[:29], features[29:30]):
        merged.merge(stats(part) if len(part) else GaussianStats(4))
    assert merged.n == 50
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance(), np.cov(features.T), rtol=1e-10)
    np.testing.assert_allclose(merged.covariance(), whole.covariance(), rtol=1e-10)


def test_merge_leaves_the_other_alone():
    a, b = (stats(np.random.default_rng(i).normal(size=(9, 3))) for i in range(2))
    empty, scatter = GaussianStats(3), b.scatter.copy()
    a.merge(b)
    empty.merge(b)
    empty.update(np.ones((2, 3)))
    np.testing.assert_array_equal(b.scatter, scatter)
    assert b.n == 9


def test_ddof_zero_divides_by_n():
    features = np.random.default_rng(6).normal(size=(8, 3))
    np.testing.assert_allclose(stats(features).covariance(0), np.cov(features.T, ddof=0))
    other = stats(np.random.default_rng(7).normal(size=(8, 3)))
    centred = [exact(s.mean, s.scatter / s.n) for s in (stats(features), other)]
    assert frechet_distance(stats(features), other, ddof=0) == pytest.approx(frechet_distance(*centred))


def test_takes_tensors_of_any_precision():
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(stats(features), stats(features.numpy())) == pytest.approx(0, abs=1e-12)
    assert stats(features.bfloat16().requires_grad_()).mean.dtype == np.float64


@pytest.mark.parametrize("call, words", [
    (lambda: GaussianStats(3).update(np.zeros((2, 4))), r"shape \(2, 4\); wanted \(n, 3\)"),
    (lambda: GaussianStats(3).update(np.zeros(3)), r"wanted \(n, 3\)"),
    (lambda: GaussianStats(1).update(np.array([[np.nan]])), "nan or infinity"),
    (lambda: GaussianStats(3).merge(GaussianStats(4)), "4 features into those of 3"),
    (lambda: frechet_distance(GaussianStats(3), GaussianStats(4)), "3 features with those of 4"),
    (lambda: frechet_distance(GaussianStats(3), GaussianStats(3)), "more than 1 sample"),
])
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
