"""Centred gamma noise: its distribution, its shape at each level, and where samplers use it."""

import math

import pytest
import torch
from scipy import stats

from latent_diffusion.gamma import gamma_noise, shape_of, shaped_draw, shaped_noise
from latent_diffusion.process import Denoised, ProcessConfig
from latent_diffusion.samplers import SAMPLERS
from latent_diffusion.schedule import Level, ScheduleConfig, level_at, sampling_levels

GAMMA = ProcessConfig("v", noise="gamma", gamma_scale=0.1)
NORMAL = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)  # as even as can be


def shape(k):
    return torch.tensor(k, dtype=torch.float64)


@pytest.mark.parametrize("k", [1.0, 30.0, 9e3, 1.1e4, 1e5])
def test_quantiles_are_those_of_the_centred_gamma(k):
    n = torch.linspace(-4, 4, 81, dtype=torch.float64)
    wanted = (stats.gamma.ppf(stats.norm.cdf(n), k) - k) / math.sqrt(k)
    torch.testing.assert_close(gamma_noise(n, shape(k)), torch.from_numpy(wanted), atol=3e-6, rtol=1e-7)


@pytest.mark.parametrize("k", [4.0, 100.0, 2e4, 2.5e10])
def test_mean_variance_and_skewness(k):
    z = gamma_noise(NORMAL, shape(k))
    assert abs(z.mean()) < 1e-3 and z.var().item() == pytest.approx(1, abs=2e-3)
    assert (z**3).mean().item() == pytest.approx(2 / math.sqrt(k), abs=5e-3)
    assert (z.diff() > 0).all()


def test_pure_noise_is_normal_and_no_noise_is_finite():
    n = torch.randn(50)
    assert torch.equal(gamma_noise(n, shape_of(Level(0.0, 1.0, 1.0), 0.1)), n)
    assert shaped_noise(n, Level(1.0, 0.0, 0.0), GAMMA).isfinite().all()
    assert shaped_noise(n, Level(0.6, 0.8, 0.5), ProcessConfig("v")) is n


def test_the_shape_of_a_level_is_that_of_the_papers_sum_of_steps():
    # k_i = beta_i / (abar_i theta^2) added up, with the scale sqrt(abar_t) theta: variance 1 - abar_t.
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    summed = (betas / abar / 0.001**2).cumsum(0)
    level = level_at(ScheduleConfig("linear"), torch.arange(1000, dtype=torch.float64))
    torch.testing.assert_close(shape_of(level, 0.001), summed, rtol=1e-6, atol=0)
    torch.testing.assert_close(summed * abar * 0.001**2, 1 - abar)


def test_every_sample_has_the_noise_of_its_own_level():
    noise, alpha = torch.randn(3, 4, 5), torch.tensor([0.9999, 0.6, 0.0])
    level = Level(alpha, (1 - alpha**2).sqrt(), alpha)
    together = shaped_noise(noise, level, GAMMA)
    for i in range(3):
        alone = shaped_noise(noise[i], Level(float(alpha[i]), float(level.sigma[i]), 0.0), GAMMA)
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(together[2], noise[2]) and not torch.allclose(together[0], noise[0], atol=0.1)


@pytest.mark.parametrize("sampler", [{"name": "ddpm"}, {"name": "ddim", "eta": 1.0}, {"name": "ddim", "eta": 0.3}])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_samplers_draw_once_in_every_step_but_the_last(sampler, schedule):
    # which is what shaped_draw counts on: at draw number i, i + 1 levels have been looked at.
    levels, seen, drawn = sampling_levels(ScheduleConfig(schedule), 6), [], []

    def denoise(x, level):
        seen.append(level)
        return Denoised(x, x)

    def draw(x):
        drawn.append(len(seen))
        return torch.ones_like(x)

    SAMPLERS.bind(sampler)(denoise, torch.ones(2), levels, draw)
    assert drawn == [1, 2, 3, 4, 5] and seen == levels[:-1]


def test_a_draw_has_the_noise_of_the_level_that_a_step_leads_to():
    levels, n = sampling_levels(ScheduleConfig("cosine"), 4), torch.randn(20)
    draw = shaped_draw(lambda like: n, levels, GAMMA)
    for level in levels[1:-1]:
        assert torch.equal(draw(n), shaped_noise(n, level, GAMMA))
    plain = object()
    assert shaped_draw(plain, levels, ProcessConfig("v")) is plain


def test_the_scale_is_for_gamma_noise_alone():
    with pytest.raises(ValueError, match=r"gamma_scale=0.1 is not read .*noise=normal"):
        ProcessConfig(gamma_scale=0.1)
    with pytest.raises(ValueError, match=r"process.noise must be one of normal, gamma"):
        ProcessConfig(noise="poisson")
