"""Parametrisations as inverses, losses and weights against their formulas."""

import math

import pytest
import torch

from latent_diffusion.process import (
    LOSSES,
    PARAMETRISATIONS,
    WEIGHTINGS,
    ProcessConfig,
    add_noise,
    elementwise,
    loss_weight,
    noise_of,
    sample_losses,
    target,
    to_denoised,
)
from latent_diffusion.schedule import Level, ScheduleConfig, level_at, training_level


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def levels(name, *shape):
    u = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return training_level(ScheduleConfig(name), u)


@pytest.mark.parametrize("schedule", ["sqrt_linear", "cosine", "flow"])
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=["sample", "slot"])
def test_a_perfect_answer_gives_back_data_and_noise(parametrisation, schedule, shape):
    x0, noise, level = normal(4, 3, 5, 7), normal(4, 3, 7, 5).reshape(4, 3, 5, 7), levels(schedule, *shape)
    x = add_noise(x0, noise, level)
    said = target(x0, noise, level, parametrisation)
    found = to_denoised(said, x, level, parametrisation)
    torch.testing.assert_close(found.x0, x0)
    torch.testing.assert_close(found.eps, noise)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("schedule", ["sqrt_linear", "flow"])
def test_any_answer_is_consistent_with_what_was_seen(parametrisation, schedule):
    x, output = normal(2, 4, 9), normal(2, 9, 4).reshape(2, 4, 9)
    for t in (1, 0.25) if schedule == "flow" and parametrisation != "eps" else (0.5, 0.25):
        level = level_at(ScheduleConfig(schedule), t if schedule == "flow" else int(999 * t))
        found = to_denoised(output, x, level, parametrisation)
        torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.eps, x)


@pytest.mark.parametrize("parametrisation", ["x0", "v", "flow"])
def test_pure_noise_and_no_noise_are_ordinary_levels(parametrisation):
    x0, noise = normal(2, 4, 9), normal(2, 9, 4).reshape(2, 4, 9)
    level = level_at(ScheduleConfig("cosine"), torch.tensor([1.0, 0.0], dtype=torch.float64))
    found = to_denoised(target(x0, noise, level, parametrisation), add_noise(x0, noise, level), level, parametrisation)
    torch.testing.assert_close(found.x0, x0)
    torch.testing.assert_close(found.eps[0], noise[0])
    assert found.eps[1].isfinite().all()


def test_x0_answers_nothing_about_the_noise_where_there_is_none():
    x = normal(2, 4)
    assert torch.equal(noise_of(x, x, Level(1.0, 0.0, 0.0)), torch.zeros_like(x))


def test_eps_from_pure_noise_is_refused():
    with pytest.raises(ValueError, match=r"eps .* use v, x0 or flow, or schedule.zero_terminal_snr=false"):
        ProcessConfig("eps").check(ScheduleConfig("cosine"))
    ProcessConfig("eps").check(ScheduleConfig("cosine", zero_terminal_snr=False))
    ProcessConfig("eps").check(ScheduleConfig("sqrt_linear"))
    ProcessConfig("v").check(ScheduleConfig("cosine"))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_even_zero_at_zero_and_grow(loss):
    error = torch.linspace(0, 4, 50, dtype=torch.float64)
    value = elementwise(error, ProcessConfig(loss=loss))
    torch.testing.assert_close(value, elementwise(-error, ProcessConfig(loss=loss)))
    assert value[0] == 0 and (value.diff() > 0).all()


def test_robust_losses_are_square_then_straight():
    huber, charbonnier = (ProcessConfig(loss=loss, loss_width=0.1) for loss in ("huber", "charbonnier"))
    for cfg, near, far in [(huber, 0.03, 5.0), (charbonnier, 1e-4, 1e3)]:
        small, large = torch.tensor(near, dtype=torch.float64), torch.tensor(far, dtype=torch.float64)
        torch.testing.assert_close(elementwise(small, cfg), small**2 / 0.2, rtol=1e-5, atol=0)
        torch.testing.assert_close(elementwise(large, cfg), large, rtol=0.02, atol=0)
    error = normal(100)
    wanted = torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=0.1) / 0.1
    torch.testing.assert_close(elementwise(error, huber), wanted)


@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS if w != "none"])
@pytest.mark.parametrize("schedule", ["sqrt_linear", "flow"])
def test_weighted_loss_is_the_same_in_every_parametrisation(weighting, schedule):
    # The same error of x0, said in any parametrisation, must cost the same.
    x0, noise, level = normal(6, 3, 5), normal(6, 5, 3).reshape(6, 3, 5), levels(schedule, 6)
    x, guess = add_noise(x0, noise, level), x0 + 0.1 * normal(6, 15).reshape(6, 3, 5)
    costs = []
    for parametrisation in PARAMETRISATIONS:
        cfg = ProcessConfig(parametrisation, weighting=weighting)
        said = target(guess, noise_of(guess, x, level), level, parametrisation)
        costs.append(sample_losses(said, target(x0, noise, level, parametrisation), level, cfg).sum)
    for cost in costs[1:]:
        torch.testing.assert_close(cost, costs[0], rtol=1e-4, atol=0)


def test_weights_are_those_of_the_papers():
    snr = torch.tensor([1e-3, 0.5, 4.0, 5.0, 100.0], dtype=torch.float64)
    level = Level((snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt(), snr)
    capped = snr.clamp(max=5)
    for parametrisation, wanted in {"x0": capped, "eps": capped / snr, "v": capped / (snr + 1)}.items():
        torch.testing.assert_close(loss_weight(level, ProcessConfig(parametrisation, weighting="min_snr")), wanted)
    p2 = ProcessConfig("eps", weighting="p2", snr_gamma=0.5, snr_offset=2.0)
    torch.testing.assert_close(loss_weight(level, p2), (2 + snr) ** -0.5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("parametrisation", ["x0", "v", "flow"])
def test_weights_are_finite_at_both_ends(weighting, parametrisation):
    level = level_at(ScheduleConfig("cosine"), torch.tensor([0.0, 1.0]))
    weight = torch.as_tensor(loss_weight(level, ProcessConfig(parametrisation, weighting=weighting)))
    assert weight.isfinite().all() and (weight >= 0).all()


def test_losses_of_parts_add_up_to_the_whole():
    output, wanted, level = normal(8, 3, 5), torch.zeros(8, 3, 5), levels("cosine", 8)
    cfg = ProcessConfig("v", loss="l1", weighting="min_snr")
    whole = sample_losses(output, wanted, level, cfg)
    parts = [sample_losses(output[i:i + 2], wanted[i:i + 2], Level(*(value[i:i + 2] for value in level)), cfg)
             for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.cat([part.sum for part in parts]), whole.sum)
    assert whole.count.tolist() == [15.0] * 8


def test_only_kept_slots_bear_loss():
    output, level = normal(2, 3, 4, 5), levels("cosine", 2, 3)
    keep = torch.tensor([[True, False, True], [False, False, False]])
    output[~keep] = math.nan  # known slots may hold anything
    loss = sample_losses(output, torch.zeros_like(output), level, ProcessConfig("v"), keep)
    torch.testing.assert_close(loss.sum[0].double(), (output[0, [0, 2]] ** 2).sum(), rtol=1e-6, atol=0)
    assert loss.sum[1] == 0 and loss.count.tolist() == [40.0, 0.0]


def test_slots_that_bear_no_loss_get_no_gradient():
    output = normal(1, 2, 3)
    output[0, 1] = math.nan
    output.requires_grad_()
    keep = torch.tensor([[True, False]])
    sample_losses(output, torch.zeros(1, 2, 3), levels("cosine", 1, 2), ProcessConfig("v"), keep).sum.sum().backward()
    assert output.grad[0, 1].eq(0).all() and output.grad[0, 0].ne(0).all()


def test_half_precision_is_scored_in_single():
    output = torch.full((1, 3, 50), 300.0, dtype=torch.float16)
    loss = sample_losses(output, torch.zeros_like(output), levels("cosine", 1), ProcessConfig("v"))
    assert loss.sum.item() == 150 * 300.0**2


@pytest.mark.parametrize("keys, word", [
    ({"parametrisation": "noise"}, "parametrisation"),
    ({"loss": "L2"}, "loss"),
    ({"weighting": "snr"}, "weighting"),
    ({"loss": "l1", "loss_width": 0.1}, "process.loss_width=0.1 is not read"),
    ({"snr_gamma": 5.0}, "snr_gamma=5.0 is not read"),
    ({"weighting": "min_snr", "snr_offset": 1.0}, "snr_offset"),
    ({"weighting": "min_snr", "snr_gamma": 0.0}, "positive"),
])
def test_nonsense_is_refused(keys, word):
    with pytest.raises(ValueError, match=word) as error:
        ProcessConfig(**keys)
    assert "\n" not in str(error.value)
