"""Guidance on Gaussians, where the guided score is known."""

import pytest
import torch

from latent_diffusion.guidance import Push, clamp_x0, classifier_free, composed, fractional, guided, within
from latent_diffusion.masks import thinned
from latent_diffusion.process import Denoised, add_noise
from latent_diffusion.samplers import heun
from latent_diffusion.schedule import Level, ScheduleConfig, sampling_levels

LEVEL = Level(0.6, 0.8, 0.5)


LEVELS = [LEVEL, Level(0.1, 0.995, 0.9), Level(0.9, 0.3, 0.2)]
each_level = pytest.mark.parametrize("level", LEVELS)


def gaussian(mean, std=1.0):
    """The ideal denoiser of N(mean, std^2)."""
    def denoise(x, level):
        power = (level.alpha * std) ** 2 + level.sigma**2
        apart = (x - level.alpha * mean) / power
        return Denoised(mean + level.alpha * std**2 * apart, level.sigma * apart)
    return denoise


def product(level, *factors):
    """Mean and precision of what is left of a product of noised Gaussians, each (mean, std, power)."""
    weighed = [(power / ((level.alpha * std) ** 2 + level.sigma**2), level.alpha * mean) for mean, std, power in factors]
    precision = sum(weight for weight, _ in weighed)
    return sum(weight * center for weight, center in weighed) / precision, precision


def check(denoise, level, *factors):
    """Its eps is the score of the product times -sigma, and its x0 goes with that."""
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    mean, precision = product(level, *factors)
    x0, eps = denoise(x, level)
    torch.testing.assert_close(eps, level.sigma * precision * (x - mean))
    torch.testing.assert_close(level.alpha * x0 + level.sigma * eps, x)


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


@each_level
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_autoguidance_by_a_blurred_model_sharpens(level, weight):
    # The weaker model has the mean but a wider spread: p^(1+w) / q^w keeps the mean and is narrower than p.
    check(classifier_free(gaussian(0.7, 0.5), gaussian(0.7, 0.9), weight), level,
          (0.7, 0.5, 1 + weight), (0.7, 0.9, -weight))
    assert product(level, (0.7, 0.5, 1 + weight), (0.7, 0.9, -weight))[1] > product(level, (0.7, 0.5, 1))[1]


@each_level
def test_several_conditions_push_each_by_its_weight(level):
    denoise = composed(gaussian(0.1, 1.2), [(gaussian(0.7, 0.5), 1.5), (gaussian(-0.4, 0.8), 0.3)])
    check(denoise, level, (0.1, 1.2, 1 - 1.5 - 0.3), (0.7, 0.5, 1.5), (-0.4, 0.8, 0.3))


@each_level
def test_conditions_on_different_parts_are_composed_exactly(level):
    # Two independent values, of each of which one condition tells the mean and halves the spread.
    plain, first, second, joint = (gaussian(torch.tensor(mean), torch.tensor(std)) for mean, std in (
        ([0.0, 0.0], [1.0, 1.0]), ([0.8, 0.0], [0.5, 1.0]), ([0.0, -0.6], [1.0, 0.5]), ([0.8, -0.6], [0.5, 0.5])))
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(composed(plain, [(first, 1.0), (second, 1.0)])(x, level), joint(x, level))


def test_composed_sampling_ends_in_the_composed_gaussian():
    x, levels = torch.linspace(-3, 3, 20, dtype=torch.float64), sampling_levels(ScheduleConfig("cosine"), 100)
    denoise = composed(gaussian(0.1), [(gaussian(0.7), 2.0), (gaussian(-0.4), 0.5)])
    out = heun(denoise, x, levels, torch.randn_like)
    torch.testing.assert_close(out, x + 0.1 + 2.0 * 0.6 - 0.5 * 0.5, rtol=0, atol=1e-3)


def given_history(rho, history, level):
    """Ideal denoiser of a frame N(0, 1) that correlates by rho with a history N(0, 1), seen at a noise level."""
    seen = add_noise(history, torch.tensor(-0.4, dtype=torch.float64), level)
    tells = rho * level.alpha  # correlation with what is seen, which has variance 1
    return gaussian(tells * seen, (1 - tells**2) ** 0.5), (tells * seen, (1 - tells**2) ** 0.5)


@each_level
@pytest.mark.parametrize("weight", [0.7, 3.0])
def test_fractional_history_guidance(level, weight):
    history = torch.tensor(1.3, dtype=torch.float64)
    full, all_of_it = given_history(0.9, history, Level(1.0, 0.0, 0.0))
    part, some_of_it = given_history(0.9, history, Level(0.6, 0.8, 0.5))
    check(fractional(full, part, gaussian(0.0), weight), level, (*all_of_it, 1), (*some_of_it, weight), (0.0, 1.0, -weight))


def test_the_fraction_runs_from_no_guidance_to_classifier_free():
    x, history = torch.linspace(-3, 3, 20, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    full, _ = given_history(0.9, history, Level(1.0, 0.0, 0.0))
    ends = {1.0: classifier_free(full, gaussian(0.0), 2.0), 0.0: full}
    for alpha, wanted in ends.items():
        part, _ = given_history(0.9, history, Level(alpha, (1 - alpha**2) ** 0.5, 0.0))
        torch.testing.assert_close(fractional(full, part, gaussian(0.0), 2.0)(x, LEVEL), wanted(x, LEVEL))


@each_level
def test_a_thinner_history_guides(level):
    # A chain of frames in which each correlates by 0.8 with the one before: only the last frame that is seen matters.
    frames, known = [0.3, -0.2, 1.1, 0.6], torch.ones(4, dtype=torch.bool)
    thin = thinned(known, 0.5, iter([0.99, 0.99]).__next__)  # the two latest are hidden
    assert thin.tolist() == [True, True, False, False]

    def chain(seen):
        last = seen.nonzero().max().item()
        tells = 0.8 ** (len(frames) - last)
        return tells * frames[last], (1 - tells**2) ** 0.5

    denoise = classifier_free(gaussian(*chain(known)), gaussian(*chain(thin)), 1.5)
    check(denoise, level, (*chain(known), 2.5), (*chain(thin), -1.5))


def test_each_network_is_asked_once_and_only_if_it_counts():
    calls = []

    def counted(name, mean):
        def denoise(x, level):
            calls.append(name)
            return gaussian(mean)(x, level)
        return denoise

    a, b, c = counted("a", 0.7), counted("b", 0.0), counted("c", -0.4)
    x = torch.zeros(3)
    guided(a, [Push(a, b, 0.5), Push(c, b, 2.0)])(x, LEVEL)
    assert sorted(calls) == ["a", "b", "c"]
    guided(refuse, [Push(a, refuse, 1.0), Push(b, c, 0.0)])(x, LEVEL)
    assert calls[3:] == ["a"]
    assert guided(a, []) is a and composed(refuse, [(a, 1.0)]) is a


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
