import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from evals.psnr import PSNR, PooledPSNR, VideoPSNR


def offset_pair(*offsets):
    """One video a row of offsets: real is grey 100, frame i of the fake is off by offsets[i]."""
    real = torch.full((len(offsets), len(offsets[0]), 4, 6, 3), 100, dtype=torch.uint8)
    return real, (real + torch.tensor(offsets)[..., None, None, None]).byte()


def run(metric, pair, **kwargs):
    metric.update(*pair, **kwargs)
    return metric.compute()


def db(error):
    return 10 * math.log10(255 ** 2 / error)


def test_identical_frames_score_100():
    pair = offset_pair([0, 0], [0, 0])
    assert run(PSNR(), pair)["mean"] == 100 and run(PooledPSNR(), pair)["mean"] == 100
    assert run(PooledPSNR(), pair)["ci95"] == 0


def test_no_frame_scores_more_than_identical_ones():
    real = torch.zeros(1, 1, 200, 200, 3, dtype=torch.uint8)
    fake = real.clone()
    fake[..., 0, 0, 0] = 1  # 50.8 + 48.1 dB at this size, and 106 dB at 512x512
    assert run(PSNR(), (real, fake))["mean"] == pytest.approx(db(1 / real.numel()))
    real = torch.zeros(1, 1, 512, 512, 3, dtype=torch.uint8)
    fake = real.clone()
    fake[..., 0, 0, 0] = 1
    assert run(PSNR(), (real, fake))["mean"] == 100 == run(PooledPSNR(), (real, fake))["mean"]


def test_mean_is_over_frames_then_videos():
    result = run(PSNR(), offset_pair([0, 3], [5, 10]))
    assert result["mean"] == pytest.approx(((100 + db(9)) / 2 + (db(25) + db(100)) / 2) / 2, abs=1e-12)
    assert result["per_frame"] == pytest.approx([(100 + db(25)) / 2, (db(9) + db(100)) / 2])


def test_videos_count_alike_whatever_their_length():
    metric = PSNR()
    metric.update(*offset_pair([3]))
    metric.update(*offset_pair([5, 5, 5, 5]))
    assert metric.compute()["mean"] == pytest.approx((db(9) + db(25)) / 2)


def test_pooled_is_the_psnr_of_the_mean_error_over_all_frames():
    metric = PooledPSNR()
    metric.update(*offset_pair([3]))
    metric.update(*offset_pair([5, 5, 0, 10]))
    result = metric.compute()
    assert result["mean"] == pytest.approx(db((9 + 25 + 25 + 100) / 5))
    assert result["per_frame"] == pytest.approx([db((9 + 25) / 2), db(25), 100, db(100)])


def test_mcvds_is_of_the_mean_error_of_each_video():
    result = run(VideoPSNR(), offset_pair([5, 5, 0, 10], [3, 3, 3, 3]))
    assert result["mean"] == pytest.approx((db((25 + 25 + 0 + 100) / 4) + db(9)) / 2)
    assert result["per_frame"] == pytest.approx([db(17), db(17), db(4.5), db(54.5)])


@pytest.mark.parametrize("metric, expected", [(PSNR, (100 + db(9)) / 2), (PooledPSNR, db(4)), (VideoPSNR, db(4))])
def test_the_best_sample_is_chosen_by_the_metric_itself(metric, expected):
    pair = offset_pair([0, 3], [2, 2])  # 100 and 38.6 dB, against 42.1 twice; errors 4.5 and 4
    result = run(metric(), pair, videos=["a", "a"])["best_of_k"]
    assert result["mean"] == pytest.approx(expected) and result["k"] == 2


def test_pooled_interval_agrees_with_the_bootstrap_over_videos():
    rng = np.random.default_rng(0)
    errors = rng.gamma(20, 4, 400)
    metric = PooledPSNR()
    metric._rows = [(None, np.array([e])) for e in errors]
    means = [db(rng.choice(errors, len(errors)).mean()) for _ in range(2000)]
    assert metric.compute()["ci95"] == pytest.approx(1.96 * np.std(means), rel=0.08)


def test_equals_scikit_image():
    rng = np.random.default_rng(1)
    real, fake = (rng.integers(0, 256, (2, 3, 9, 7, 3), dtype=np.uint8) for _ in range(2))
    expected = np.mean([[peak_signal_noise_ratio(r, f, data_range=255) for r, f in zip(*pair)]
                        for pair in zip(real, fake)])
    assert run(PSNR(), (torch.from_numpy(real), torch.from_numpy(fake)))["mean"] == pytest.approx(expected, abs=1e-10)


def test_error_of_black_and_white_is_exact():
    # 0 - 255 wraps in uint8, and 255^2 in int16
    real, fake = torch.zeros(1, 2, 3, 3, 3, dtype=torch.uint8), torch.full((1, 2, 3, 3, 3), 255, dtype=torch.uint8)
    assert run(PSNR(), (real, fake))["mean"] == 0 == run(PSNR(), (fake, real))["mean"]
