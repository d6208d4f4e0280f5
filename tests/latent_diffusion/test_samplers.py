"""Samplers on data whose ideal denoiser is known: a point and Gaussians."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from latent_diffusion.guidance import clamp_x0
from latent_diffusion.process import Denoised, to_denoised
from latent_diffusion.samplers import SAMPLERS, ddim, ddpm, dpmpp_2m, evaluations, flow_euler, heun, posterior
from latent_diffusion.schedule import Level, ScheduleConfig, sampling_levels

COSINE, FLOW, PVDM = ScheduleConfig("cosine"), ScheduleConfig("flow"), ScheduleConfig("sqrt_linear")
ORDER = {"ddim": 1, "flow_euler": 1, "heun": 2, "dpmpp_2m": 2}
each_sampler = pytest.mark.parametrize("name", list(SAMPLERS))
each_schedule = pytest.mark.parametrize("cfg", [COSINE, FLOW, PVDM], ids=lambda cfg: cfg.name)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded_draw(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator)


def gaussian(mean=0.0, std=1.0):
    """The ideal denoiser of N(mean, std^2)."""
    def denoise(x, level):
        power = (level.alpha * std) ** 2 + level.sigma**2
        x0 = mean + level.alpha * std**2 / power * (x - level.alpha * mean)
        return Denoised(x0, level.sigma / power * (x - level.alpha * mean))
    return denoise


def answer(parametrisation, output, x, level):
    """A network that always says the same."""
    return to_denoised(output, x, level, parametrisation)


def ode_end(x, start, end, mean, std):
    """Where the probability-flow ODE takes x: it keeps the number of standard deviations from the mean."""
    before, after = (math.hypot(level.alpha * std, level.sigma) for level in (start, end))
    return end.alpha * mean + after / before * (x - start.alpha * mean)


def deviation(sampler, levels, std=1.0):
    """Standard deviation of what a sampler makes, exactly: on N(0, std^2) it is linear in its draws."""
    coefficients = torch.eye(len(levels) + 1, dtype=torch.float64)
    drawn = iter(coefficients[1:])
    return sampler(gaussian(std=std), coefficients[0], levels, lambda x: next(drawn)).norm().item()


@each_sampler
@each_schedule
def test_one_step_gives_the_first_estimate(name, cfg):
    x, levels = noise(2, 4, 9), sampling_levels(cfg, 1)
    out = SAMPLERS.get(name)(gaussian(0.3, 0.7), x, levels, seeded_draw())
    torch.testing.assert_close(out, gaussian(0.3, 0.7)(x, levels[0]).x0)


@each_sampler
@each_schedule
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_point_is_found_exactly(name, cfg, steps):
    point = noise(2, 4, 9, seed=5)
    out = SAMPLERS.get(name)(partial(answer, "x0", point), noise(2, 4, 9), sampling_levels(cfg, steps), seeded_draw())
    torch.testing.assert_close(out, point)


@each_sampler
@each_schedule
def test_a_unit_gaussian_keeps_its_spread(name, cfg):
    assert deviation(SAMPLERS.get(name), sampling_levels(cfg, 200)) == pytest.approx(1, abs=0.03)


@each_sampler
def test_the_result_is_a_function_of_the_draws(name):
    sample = partial(SAMPLERS.get(name), gaussian(0.3, 0.7), noise(2, 9), sampling_levels(COSINE, 8))
    assert torch.equal(sample(seeded_draw(1)), sample(seeded_draw(1)))


@each_sampler
def test_samples_do_not_see_each_other(name):
    x, fixed = noise(3, 9), noise(3, 9, seed=7)
    sample = partial(SAMPLERS.get(name), gaussian(0.3, 0.7), levels=sampling_levels(FLOW, 6))
    whole = sample(x=x, draw=lambda x: fixed)
    torch.testing.assert_close(sample(x=x[1:2], draw=lambda x: fixed[1:2]), whole[1:2])


@each_sampler
@pytest.mark.parametrize("steps", [1, 2, 3, 25])
def test_single_precision_from_pure_noise_stays_finite(name, steps):
    x, levels = noise(2, 9).float(), sampling_levels(COSINE, steps)
    out = SAMPLERS.get(name)(partial(answer, "v", 0.1 * x), x, levels, seeded_draw())
    assert out.dtype == torch.float32 and out.isfinite().all() and out.abs().max() < 10


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_ddim_on_unit_gaussian_is_exact(steps):
    # For x0 ~ N(0, 1) the ideal denoiser is alpha * x; n equal-angle DDIM steps scale x by cos(pi / 2n)^n.
    x = noise(3, 4, 9)
    out = ddim(gaussian(), x, sampling_levels(COSINE, steps), torch.randn_like)
    torch.testing.assert_close(out, x * math.cos(math.pi / (2 * steps)) ** steps)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_ancestral_sampling_of_a_unit_gaussian_is_exact(steps):
    # There the true reverse step has the variance beta, so each step keeps N(0, 1); the last only scales by alpha.
    levels = sampling_levels(COSINE, steps)
    spread = deviation(partial(ddpm, variance="fixed_large"), levels)
    assert spread == pytest.approx(levels[-2].alpha, abs=1e-12)


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("cfg", [COSINE, FLOW], ids=["cosine", "flow"])
def test_error_falls_by_the_order_of_the_method(name, cfg):
    mean, std, x = 0.4, 0.3, noise(50)
    errors = []
    for steps in (32, 64, 128):
        levels = sampling_levels(cfg, steps + 2, "logsnr")[1:-1]  # both ends have a finite log-SNR
        exact = ode_end(x, levels[0], levels[-1], mean, std)
        errors.append((SAMPLERS.get(name)(gaussian(mean, std), x, levels, seeded_draw()) - exact).abs().max())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDER[name], abs=0.25)


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("cfg", [COSINE, FLOW], ids=["cosine", "flow"])
def test_pure_noise_converges_to_the_end_of_the_ode(name, cfg):
    mean, std, x = 0.4, 0.3, noise(50)
    errors = []
    for steps in (100, 200, 400):
        levels = sampling_levels(cfg, steps)
        out = SAMPLERS.get(name)(gaussian(mean, std), x, levels, seeded_draw())
        errors.append((out - (mean + std * x)).abs().max())
    assert all(coarse > 1.6 ** ORDER[name] * fine for coarse, fine in pairwise(errors))


@each_schedule
def test_second_order_is_worth_it(cfg):
    x, levels = noise(50), sampling_levels(cfg, 20, "logsnr")
    exact = ode_end(x, levels[0], levels[-1], 0.4, 0.3)
    error = {name: (SAMPLERS.get(name)(gaussian(0.4, 0.3), x, levels, seeded_draw()) - exact).abs().max()
             for name in ORDER}
    assert error["dpmpp_2m"] < error["ddim"] / 3 and error["heun"] < error["ddim"] / 3


@each_schedule
@pytest.mark.parametrize("sampler", [ddpm, partial(ddpm, variance="fixed_large"), partial(ddim, eta=1.0),
                                     partial(ddim, eta=0.5)], ids=["small", "large", "eta 1", "eta 0.5"])
def test_random_samplers_reproduce_a_gaussian(sampler, cfg):
    levels = sampling_levels(cfg, 500)
    assert deviation(sampler, levels, std=0.6) == pytest.approx(0.6, rel=0.03)
    start = torch.full((1,), levels[0].alpha * 0.8, dtype=torch.float64)  # the mean of what sampling starts from
    mean = sampler(gaussian(0.8, 0.6), start, levels, torch.zeros_like)
    assert mean.item() == pytest.approx(0.8, rel=1e-9)


@each_schedule
def test_ancestral_sampling_is_ddim_with_eta_one(cfg):
    x, levels = noise(2, 9), sampling_levels(cfg, 12)
    denoise = clamp_x0(gaussian(0.3, 0.7), -0.4, 0.4)
    torch.testing.assert_close(ddim(denoise, x, levels, seeded_draw(), eta=1.0, rederive=True),
                               ddpm(denoise, x, levels, seeded_draw()))


@each_schedule
def test_velocity_steps_are_ddim_steps_where_nothing_is_clamped(cfg):
    x, levels = noise(2, 9), sampling_levels(cfg, 12)
    torch.testing.assert_close(flow_euler(gaussian(0.3, 0.7), x, levels, seeded_draw()),
                               ddim(gaussian(0.3, 0.7), x, levels, seeded_draw()))


def test_rederived_noise_matters_only_when_clamped():
    levels = sampling_levels(PVDM, 12)[:-1]  # the last step would return the clamped x0 whatever came before
    for bound, same in [(100.0, True), (0.4, False)]:
        denoise = clamp_x0(gaussian(0.3, 0.7), -bound, bound)
        own, derived = (ddim(denoise, noise(2, 9), levels, seeded_draw(), rederive=r) for r in (False, True))
        assert torch.allclose(own, derived) == same


@pytest.mark.parametrize("sampler, drawn", [
    (ddpm, 9), (partial(ddim, eta=1.0), 9), (ddim, 0), (heun, 0), (dpmpp_2m, 0), (flow_euler, 0)])
def test_noise_is_drawn_once_a_step_and_never_at_the_last(sampler, drawn):
    count = 0

    def draw(x):
        nonlocal count
        count += 1
        return torch.zeros_like(x)

    sampler(gaussian(), noise(2, 9), sampling_levels(COSINE, 10), draw)
    assert count == drawn


@each_sampler
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_evaluations_are_counted(name, steps):
    assert evaluations(name, steps) == (2 * steps - 1 if name == "heun" else steps)


def test_posterior_of_pure_noise_is_the_prior_around_x0():
    step = posterior(Level(0.0, 1.0, 1.0), Level(0.6, 0.8, 0.5))
    assert step == pytest.approx((0.6, 0.0, 0.64, 1.0))


@pytest.mark.parametrize("cfg, word", [
    ({"name": "ddim", "eta": 1.5}, "eta"), ({"name": "ddpm", "variance": "learned"}, "variance"),
    ({"name": "ddimm"}, "ddim"), ({"name": "ddim", "etta": 1}, "eta")])
def test_nonsense_is_refused(cfg, word):
    with pytest.raises(ValueError, match=word):
        SAMPLERS.bind(cfg)(gaussian(), noise(2), sampling_levels(COSINE, 2), seeded_draw())
