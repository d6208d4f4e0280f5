import pytest
import torch

from evals.mse import MSE


def test_it_is_the_mean_square_in_units_of_white():
    real = torch.zeros(2, 2, 3, 4, 3, dtype=torch.uint8)
    fake = real + torch.tensor([[0, 51], [102, 255]]).view(2, 2, 1, 1, 1).byte()
    metric = MSE()
    metric.update(real, fake)
    result = metric.compute()
    assert result["mean"] == pytest.approx((0 + 0.04 + 0.16 + 1) / 4) and result["per_frame"] == pytest.approx([0.08, 0.52])


def test_the_best_sample_is_the_nearest():
    real = torch.zeros(2, 1, 3, 4, 3, dtype=torch.uint8)
    fake = real + torch.tensor([51, 102]).view(2, 1, 1, 1, 1).byte()
    metric = MSE()
    metric.update(real, fake, videos=["a", "a"])
    assert metric.compute()["best_of_k"]["mean"] == pytest.approx(0.04)
