"""Samplers on data whose ideal denoiser is known: a point and Gaussians."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from latent_diffusion.bench_samplers import Mixture
from latent_diffusion.guidance import clamp_x0
from latent_diffusion.process import Denoised, to_denoised
from latent_diffusion.samplers import (
    ADAMS_BASHFORTH,
    OWN_SPACING,
    SAMPLERS,
    ddim,
    ddpm,
    deis,
    dpmpp_2m,
    evaluations,
    flow_euler,
    heun,
    pndm,
    posterior,
    step_weights,
)
from latent_diffusion.schedule import Level, ScheduleConfig, level_at, sampling_levels

COSINE, FLOW, PVDM = ScheduleConfig("cosine"), ScheduleConfig("flow"), ScheduleConfig("sqrt_linear")
ORDER = {"ddim": 1, "flow_euler": 1, "heun": 2, "dpmpp_2m": 2, "pndm": 2, "deis": 4}
EVALUATIONS = {"heun": lambda steps: 2 * steps - 1, "pndm": lambda steps: steps + 3 * min(steps - 1, 3)}  # others: one a step
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


def watched(denoise):
    """A denoiser, and the levels at which it will have been called."""
    seen = []

    def watch(x, level):
        seen.append(level)
        return denoise(x, level)
    return watch, seen


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
@pytest.mark.parametrize("cfg", [COSINE, FLOW, PVDM, ScheduleConfig("linear")], ids=lambda cfg: cfg.name)
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_few_steps_do_not_exaggerate(name, cfg, steps):
    # The first level of a table is nearly pure noise: what is divided by its alpha there would be thrown far off.
    assert deviation(SAMPLERS.get(name), sampling_levels(cfg, steps), std=0.3) < 0.33


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
        assert math.log2(coarse / fine) == pytest.approx(ORDER[name], abs=0.35)


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
    assert all(error[name] < error["ddim"] / 3 for name in ORDER if ORDER[name] >= 2)


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
    (ddpm, 9), (partial(ddim, eta=1.0), 9), (ddim, 0), (heun, 0), (dpmpp_2m, 0), (pndm, 0),
    (deis, 0), (flow_euler, 0)])
def test_noise_is_drawn_once_a_step_and_never_at_the_last(sampler, drawn):
    count = 0

    def draw(x):
        nonlocal count
        count += 1
        return torch.zeros_like(x)

    sampler(gaussian(), noise(2, 9), sampling_levels(COSINE, 10), draw)
    assert count == drawn


@each_sampler
@each_schedule
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
def test_evaluations_are_counted(name, cfg, steps):
    denoise, seen = watched(gaussian(0.3, 0.7))
    SAMPLERS.get(name)(denoise, noise(2, 9), sampling_levels(cfg, steps), seeded_draw())
    assert evaluations(name, steps) == len(seen) == EVALUATIONS.get(name, int)(steps)


@pytest.mark.parametrize("steps", ["20", "50", "ddim50"])
def test_pndm_reproduces_a_gaussian_from_few_steps(steps):
    # What the published sampler was found to miss: it made a mean of 0.49 and a spread of 0.11 to 0.16 of this one.
    levels = sampling_levels(ScheduleConfig("linear"), steps)
    middle = pndm(gaussian(0.2, 0.3), torch.zeros(1, dtype=torch.float64), levels, torch.zeros_like)
    assert middle.item() == pytest.approx(0.2, abs=0.01)
    assert deviation(pndm, levels, std=0.3) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("steps, std", [("ddim20", 0.2993), ("ddim50", 0.3010)])
def test_pndm_is_the_published_method_where_that_is_called_rightly(steps, std):
    assert deviation(pndm, sampling_levels(ScheduleConfig("linear"), steps), std=0.3) == pytest.approx(std, abs=3e-4)


@pytest.mark.parametrize("order", ADAMS_BASHFORTH)
def test_multistep_weights_integrate_polynomials(order):
    # From values at 0, -1, -2, ... to the integral from 0 to 1, for every power below the order.
    for power in range(order):
        found = sum(weight * (-float(i)) ** power for i, weight in enumerate(ADAMS_BASHFORTH[order]))
        assert found == pytest.approx(1 / (power + 1))


def exponential(x, level):
    """At alpha = 1 the ODE is dx / dsigma = eps; here eps = x."""
    return Denoised(x - level.sigma * x, x)


def test_a_warm_up_step_of_pndm_is_runge_kuttas():
    # On a linear ODE any four-stage method of fourth order gives the first five terms of the exponential.
    x, step = noise(9), -0.4
    levels = [Level(1.0, 0.9, 0.9), Level(1.0, 0.9 + step, 0.5)]
    wanted = sum(step**power / math.factorial(power) for power in range(5))
    torch.testing.assert_close(pndm(exponential, x, levels, seeded_draw()), x * wanted)


def test_pndm_is_of_fourth_order_where_its_steps_are_straight():
    x, errors = noise(9), []
    for steps in (16, 32, 64):
        levels = [Level(1.0, sigma, sigma) for sigma in torch.linspace(1.0, 0.2, steps + 1, dtype=torch.float64).tolist()]
        errors.append((pndm(exponential, x, levels, seeded_draw()) - x * math.exp(-0.8)).abs().max())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(4, abs=0.4)


@pytest.mark.parametrize("cfg", [COSINE, FLOW, ScheduleConfig("cosine", shift=3.0), ScheduleConfig("flow", shift=2.0)])
def test_pndm_warms_up_at_levels_half_way(cfg):
    # A network is told the label: between two levels of these schedules, label, alpha and sigma belong together.
    denoise, seen = watched(gaussian())
    first, second = sampling_levels(cfg, 8)[:2]
    pndm(denoise, noise(3), sampling_levels(cfg, 8), seeded_draw())
    assert all(level_at(cfg, level.t) == pytest.approx(level, abs=1e-12) for level in seen)
    assert [level.t for level in seen[:4]] == pytest.approx([first.t, *[(first.t + second.t) / 2] * 2, second.t])


@pytest.mark.parametrize("name", ["linear", "sqrt_linear"])
def test_pndm_warms_up_close_to_a_table(name):
    cfg, (denoise, seen) = ScheduleConfig(name), watched(gaussian())
    levels = sampling_levels(cfg, 50)
    pndm(denoise, noise(3), levels, seeded_draw())
    between = [level for level in seen if level not in levels]
    assert len(between) == 6 and all(math.hypot(level.alpha, level.sigma) == pytest.approx(1) for level in between)
    for level in between:
        true = level_at(cfg, level.t)
        assert level.sigma / level.alpha == pytest.approx(true.sigma / true.alpha, rel=0.005)


def test_pndm_heeds_a_clamp():
    # The noise that it goes along is that of the clamped x0, so a bound that bites ends near the bound.
    levels = sampling_levels(PVDM, 20)
    free, clamped = (pndm(denoise, noise(9), levels, seeded_draw()) for denoise in (
        gaussian(0.8, 0.5), clamp_x0(gaussian(0.8, 0.5), -0.4, 0.4)))
    assert free.max() > 0.9 and clamped.max() < 0.45


@each_schedule
def test_one_point_without_correction_is_ddim(cfg):
    x, levels = noise(2, 9), sampling_levels(cfg, 12)
    torch.testing.assert_close(deis(gaussian(0.3, 0.7), x, levels, seeded_draw(), order=1, correct=False),
                               ddim(gaussian(0.3, 0.7), x, levels, seeded_draw()))


@pytest.mark.parametrize("order, correct, wanted", [(1, False, 1), (2, False, 2), (3, False, 3), (2, True, 3)])
def test_a_correction_is_worth_an_order(order, correct, wanted):
    # The first step has one point and the second two, which bounds what three can do.
    errors, x = [], noise(50)
    for steps in (32, 64, 128):
        levels = sampling_levels(COSINE, steps)
        out = deis(gaussian(0.4, 0.3), x, levels, seeded_draw(), order=order, correct=correct)
        errors.append((out - (0.4 + 0.3 * x)).abs().max())
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(wanted, abs=0.35)


@pytest.mark.parametrize("points, cur, nxt", [
    ([math.pi / 2], math.pi / 2, 1.2), ([0.5, 0.9, 1.2], 0.5, 0.3), ([0.3, 0.5, 0.9, 1.2], 0.5, 0.3),
    ([0.4, 1.2], 0.4, 0.003), ([1e-4, 2e-4, 3e-4], 1e-4, 1e-5)])
def test_weights_of_a_step_integrate_polynomials(points, cur, nxt):
    # For x0 = cos^p: the integral of cos^p / sin^2 from nxt to cur is a closed form.
    def whole(power, angle):
        half = math.tan(angle / 2)  # of (1 - cos)^p / sin^2
        return [-1 / math.tan(angle), half, 2 * half - angle][power]

    for power in range(min(len(points), 3)):
        found = sum(weight * (1 - math.cos(point)) ** power
                    for weight, point in zip(step_weights(points, cur, nxt), points, strict=True))
        wanted = math.sin(nxt) * (whole(power, cur) - whole(power, nxt))
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-14)


def test_the_last_step_takes_the_polynomial_at_the_end():
    # 1 - cos(angle) = angle^2 / 2 nearly: a straight line through its values at 0.2 and 0.1 meets 0 at 4/3 and -1/3.
    assert step_weights([0.1, 0.2], 0.1, 0.0) == pytest.approx([4 / 3, -1 / 3], abs=0.01)


@each_schedule
def test_twenty_evaluations_come_nearer_than_ddim_in_two_hundred(cfg):
    mixture = Mixture.drawn(seed=1)
    levels = {steps: sampling_levels(cfg, steps, spacing) for steps, spacing in [(20, OWN_SPACING["deis"]), (200, "uniform")]}
    x = levels[20][0].sigma * noise(30, 16)
    assert levels[20][0] == pytest.approx(levels[200][0])
    end = heun(mixture, x, sampling_levels(cfg, 1000, "logsnr"), seeded_draw())
    few, many = (sampler(mixture, x, levels[steps], seeded_draw()) for sampler, steps in [(deis, 20), (ddim, 200)])
    assert (few - end).norm(dim=1).median() < (many - end).norm(dim=1).median()


def test_posterior_of_pure_noise_is_the_prior_around_x0():
    step = posterior(Level(0.0, 1.0, 1.0), Level(0.6, 0.8, 0.5))
    assert step == pytest.approx((0.6, 0.0, 0.64, 1.0))


@pytest.mark.parametrize("cfg, word", [
    ({"name": "ddim", "eta": 1.5}, "eta"), ({"name": "ddpm", "variance": "learned"}, "variance"),
    ({"name": "deis", "order": 5}, "order"), ({"name": "ddimm"}, "ddim"), ({"name": "ddim", "etta": 1}, "eta")])
def test_nonsense_is_refused(cfg, word):
    with pytest.raises(ValueError, match=word):
        SAMPLERS.bind(cfg)(gaussian(), noise(2), sampling_levels(COSINE, 2), seeded_draw())
