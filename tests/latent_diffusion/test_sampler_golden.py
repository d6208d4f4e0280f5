"""DDIM as the public PVDM code runs it, to its numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from latent_diffusion.guidance import clamp_x0, classifier_free
from latent_diffusion.process import to_denoised
from latent_diffusion.samplers import ddim, posterior
from latent_diffusion.schedule import ScheduleConfig, level_at, sampling_levels

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pvdm_sampler.npz")
PVDM = ScheduleConfig("sqrt_linear")


def wave(*shape):
    i = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy((np.sin(0.37 * i) + 0.5 * np.cos(0.0113 * i)).astype(np.float32).reshape(shape))


def network(x, condition, t):
    return 0.3 * x + 0.01 * np.sin(t) + 0.2 * condition


@pytest.mark.parametrize("weight", [0.0, 1.5])
@pytest.mark.parametrize("steps", [20, 50, 100])
def test_ddim_gives_the_videos_of_pvdm(steps, weight):
    start = wave(2, 4, 2048)
    condition = 0.7 * start.flip(-1)

    def denoiser(given):
        return lambda x, level: to_denoised(network(x, given, level.t), x, level, "eps")

    denoise = classifier_free(denoiser(condition), denoiser(torch.zeros_like(condition)), weight)
    out = ddim(clamp_x0(denoise, -1, 1), start, sampling_levels(PVDM, steps), torch.randn_like)
    np.testing.assert_allclose(out, GOLDEN[f"ddim_steps{steps}_w{weight}"], atol=1e-4)


def test_levels_are_those_of_pvdm():
    levels = level_at(PVDM, torch.arange(1000, dtype=torch.float64))
    np.testing.assert_allclose(levels.alpha**2, GOLDEN["alphas_cumprod"], rtol=1e-5)


def test_posterior_is_that_of_pvdm():
    for t in (1, 2, 500, 999):
        step = posterior(level_at(PVDM, t), level_at(PVDM, t - 1))
        np.testing.assert_allclose(step.x0, GOLDEN["posterior_mean_coef1"][t], rtol=1e-4)
        np.testing.assert_allclose(step.x, GOLDEN["posterior_mean_coef2"][t], rtol=1e-4)
        np.testing.assert_allclose(step.variance, GOLDEN["posterior_variance"][t], rtol=1e-4)
        np.testing.assert_allclose(step.beta, GOLDEN["betas"][t], rtol=1e-4)
