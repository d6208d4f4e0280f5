import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from evals.ssim import SSIM


def ours(real, fake):
    metric = SSIM()
    metric.update(torch.from_numpy(real), torch.from_numpy(fake))
    return metric.compute()["mean"]


def reference(real, fake):
    return np.mean([[structural_similarity(r, f, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                           data_range=255, channel_axis=-1) for r, f in zip(*pair)]
                    for pair in zip(real, fake)])


def smooth(rng, shape):
    b, t, h, w, c = shape
    grid = np.arange(h)[:, None, None] * 0.2 + np.arange(w)[:, None] * 0.1 + rng.uniform(0, 6, (b, t, 1, 1, c))
    return (127.5 + 120 * np.sin(grid)).astype(np.uint8)


@pytest.mark.parametrize("size", [(11, 11), (64, 64), (37, 90), (11, 50)])
@pytest.mark.parametrize("spread", [1, 10, 200])
def test_equals_scikit_image(size, spread):
    rng = np.random.default_rng(0)
    real = smooth(rng, (2, 3, *size, 3))
    fake = (real + rng.normal(0, spread, real.shape)).clip(0, 255).astype(np.uint8)
    assert ours(real, fake) == pytest.approx(reference(real, fake), abs=1e-9)


@pytest.mark.parametrize("left, right", [(0, 255), (250, 255), (255, 255), (0, 1)])
def test_flat_frames_follow_the_closed_form(left, right):
    # No variance: what remains is the luminance term (2 x y + C1) / (x^2 + y^2 + C1).
    real, fake = (np.full((1, 1, 20, 20, 3), v, np.uint8) for v in (left, right))
    c1 = (0.01 * 255) ** 2
    assert ours(real, fake) == pytest.approx((2 * left * right + c1) / (left ** 2 + right ** 2 + c1), abs=1e-9)


def test_is_symmetric_and_one_only_for_equal_frames():
    rng = np.random.default_rng(1)
    real, fake = (smooth(rng, (1, 2, 24, 24, 3)) for _ in range(2))
    assert ours(real, real) == pytest.approx(1, abs=1e-12)
    assert ours(real, fake) == pytest.approx(ours(fake, real), abs=1e-12) and ours(real, fake) < 1


def test_frames_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 40x10"):
        ours(*np.zeros((2, 1, 1, 10, 40, 3), np.uint8))
