"""Guidance on Gaussians, where the guided score is known."""

import pytest
import torch

from latent_diffusion.guidance import clamp_x0, classifier_free, within
from latent_diffusion.process import Denoised
from latent_diffusion.samplers import heun
from latent_diffusion.schedule import Level, ScheduleConfig, sampling_levels

LEVEL = Level(0.6, 0.8, 0.5)


def gaussian(mean):
    """The ideal denoiser of N(mean, 1) on a variance-preserving schedule."""
    def denoise(x, level):
        return Denoised(mean + level.alpha * (x - level.alpha * mean), level.sigma * (x - level.alpha * mean))
    return denoise


def refuse(x, level):
    raise AssertionError("this denoiser is not needed here")


@pytest.mark.parametrize("weight", [-1.0, 0.0, 1.5])
def test_guided_gaussians_of_one_width_are_a_gaussian_further_out(weight):
    # p(x|c)^(1+w) / p(x)^w of N(m, 1) and N(0, 1) is N((1 + w) m, 1), at every noise level.
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    guided = classifier_free(gaussian(0.7), gaussian(0.0), weight)(x, LEVEL)
    for found, wanted in zip(guided, gaussian((1 + weight) * 0.7)(x, LEVEL), strict=True):
        torch.testing.assert_close(found, wanted)


def test_guided_sampling_ends_in_the_guided_gaussian():
    x, levels = torch.linspace(-3, 3, 20, dtype=torch.float64), sampling_levels(ScheduleConfig("cosine"), 100)
    out = heun(classifier_free(gaussian(0.7), gaussian(0.0), 1.5), x, levels, torch.randn_like)
    torch.testing.assert_close(out, x + 2.5 * 0.7, rtol=0, atol=1e-3)


def test_no_guidance_costs_nothing():
    x = torch.zeros(3)
    assert classifier_free(gaussian(0.7), refuse, 0.0)(x, LEVEL).x0.shape == x.shape


def test_guidance_keeps_x0_and_eps_consistent():
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    x0, eps = classifier_free(gaussian(0.7), gaussian(-0.2), 2.0)(x, LEVEL)
    torch.testing.assert_close(LEVEL.alpha * x0 + LEVEL.sigma * eps, x)


@pytest.mark.parametrize("level, inside", [
    (Level(0.0, 1.0, 1.0), False), (Level(0.6, 0.8, 0.5), True), (Level(0.8, 0.6, 0.3), True), (Level(1, 0.1, 0.0), False)])
def test_guidance_within_an_interval(level, inside):
    guided, plain = (gaussian(0.7), refuse) if inside else (refuse, gaussian(0.7))
    within(guided, plain, 0.5, 2.0)(torch.zeros(3), level)


def test_interval_without_bounds_is_everywhere():
    for level in (Level(0.0, 1.0, 1.0), LEVEL, Level(1.0, 0.0, 0.0)):
        within(gaussian(0.7), refuse)(torch.zeros(3), level)


def test_clamp_leaves_the_noise_alone():
    x = torch.linspace(-9, 9, 20, dtype=torch.float64)
    free, clamped = gaussian(0.7)(x, LEVEL), clamp_x0(gaussian(0.7), -1, 1)(x, LEVEL)
    torch.testing.assert_close(clamped.x0, free.x0.clamp(-1, 1))
    torch.testing.assert_close(clamped.eps, free.eps)
    assert free.x0.max() > 1


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        within(refuse, refuse, 2.0, 1.0)
    with pytest.raises(ValueError, match="low < high"):
        clamp_x0(refuse, 1, -1)
