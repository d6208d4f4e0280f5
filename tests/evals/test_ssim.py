import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from evals.ssim import SSIM, GreySSIM, grey


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


@pytest.mark.parametrize("size", [(11, 11), (64, 64), (37, 130), (11, 59)])
@pytest.mark.parametrize("spread", [1, 10, 200])
def test_equals_scikit_image(size, spread):
    rng = np.random.default_rng(0)
    real = smooth(rng, (2, 3, *size, 3))
    fake = (real + rng.normal(0, spread, real.shape)).clip(0, 255).astype(np.uint8)
    assert ours(real, fake) == pytest.approx(reference(real, fake), abs=1e-6)


@pytest.mark.parametrize("left, right", [(0, 255), (250, 255), (255, 255), (0, 1)])
def test_flat_frames_follow_the_closed_form(left, right):
    # No variance: what remains is the luminance term (2 x y + C1) / (x^2 + y^2 + C1).
    real, fake = (np.full((1, 1, 20, 20, 3), v, np.uint8) for v in (left, right))
    c1 = (0.01 * 255) ** 2
    assert ours(real, fake) == pytest.approx((2 * left * right + c1) / (left ** 2 + right ** 2 + c1), abs=1e-6)


def test_is_symmetric_and_one_only_for_equal_frames():
    rng = np.random.default_rng(1)
    real, fake = (smooth(rng, (1, 2, 24, 24, 3)) for _ in range(2))
    assert ours(real, real) == pytest.approx(1, abs=1e-12)
    assert ours(real, fake) == pytest.approx(ours(fake, real), abs=1e-6) and ours(real, fake) < 1


@pytest.mark.parametrize("levels", [(0, 255), (80, 180)])
def test_flat_halves_of_different_levels_stay_within_float32(levels):
    # The worst for digits: no variance on either side of an edge, and means far from each other.
    real, fake = np.full((2, 1, 1, 64, 64, 3), levels[0], np.uint8)
    real[:, :, :32], fake[..., 32:, :] = levels[1], levels[1]
    assert ours(real, fake) == pytest.approx(reference(real, fake), abs=3e-5)


def test_mcvds_is_of_grey_frames():
    real, fake = np.random.default_rng(2).integers(0, 256, (2, 1, 2, 20, 24, 3), dtype=np.uint8)
    metric = GreySSIM()
    metric.update(torch.from_numpy(real), torch.from_numpy(fake))
    grey = [[np.asarray(Image.fromarray(frame).convert("L")) for frame in v[0]] for v in (real, fake)]
    expected = np.mean([structural_similarity(r, f, gaussian_weights=True, use_sample_covariance=False, data_range=255)
                        for r, f in zip(*grey)])
    assert metric.compute()["mean"] == pytest.approx(expected, abs=1e-6)


def test_mcvds_of_digits_sees_black_and_white_only():
    real = np.random.default_rng(3).integers(0, 256, (1, 1, 20, 24, 1), dtype=np.uint8)
    metric = GreySSIM(binary=True)
    metric.update(torch.from_numpy(real), torch.from_numpy(np.where(real > 127, 255, 0).astype(np.uint8)))
    assert metric.compute()["mean"] == pytest.approx(1, abs=1e-6)


def test_grey_is_pillows():
    frames = np.random.default_rng(4).integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(grey(torch.from_numpy(frames))[0], np.asarray(Image.fromarray(frames[0]).convert("L")))


def test_frames_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 40x10"):
        ours(*np.zeros((2, 1, 1, 10, 40, 3), np.uint8))


def test_a_video_gives_the_same_bits_in_any_batch_and_beside_any_samples():
    draw = torch.Generator().manual_seed(5)
    real, fake = torch.randint(0, 256, (2, 3, 9, 70, 64, 3), generator=draw, dtype=torch.uint8)
    real[1] = real[0]
    alone, together = SSIM(), SSIM()
    together.update(real, fake, ["a", "a", "b"])
    for i in range(3):
        alone.update(real[i:i + 1], fake[i:i + 1], ["aab"[i]])
    assert [row.tolist() for _, row in alone._rows] == [row.tolist() for _, row in together._rows]


def test_a_shift_in_brightness_costs_no_digits():
    # d = 100 everywhere but for a small texture, whose variance is what counts.
    rng = np.random.default_rng(6)
    real = rng.integers(60, 64, (1, 2, 40, 130, 3), dtype=np.uint8)
    fake = (real + 100 + rng.integers(0, 3, real.shape)).astype(np.uint8)
    assert ours(real, fake) == pytest.approx(reference(real, fake), abs=1e-6)
