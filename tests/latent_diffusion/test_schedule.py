"""Schedules against their closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from latent_diffusion.schedule import (
    SPACINGS,
    ScheduleConfig,
    clean_level,
    level_at,
    sampling_levels,
    training_level,
)

SCHEDULES = [
    ScheduleConfig("sqrt_linear"),
    ScheduleConfig("linear"),
    ScheduleConfig("linear", zero_terminal_snr=True, shift=0.5),
    ScheduleConfig("cosine"),
    ScheduleConfig("cosine", zero_terminal_snr=False, shift=3.0),
    ScheduleConfig("flow"),
    ScheduleConfig("flow", shift=2.0),
]
each_schedule = pytest.mark.parametrize("cfg", SCHEDULES, ids=lambda c: f"{c.name}-{c.shift}-{c.ends_in_noise}")


def ratio(level):
    return level.sigma / level.alpha if level.alpha else math.inf


@each_schedule
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_sampling_goes_from_noisy_to_clean(cfg, spacing, steps):
    levels = sampling_levels(cfg, steps, spacing)
    assert len(levels) == steps + 1
    assert all(ratio(noisy) > ratio(clean) and noisy.t > clean.t for noisy, clean in pairwise(levels))
    assert levels[-1] == clean_level(cfg)
    assert (levels[0].alpha == 0) == cfg.ends_in_noise


@each_schedule
def test_power_is_preserved_except_by_flow(cfg):
    for level in sampling_levels(cfg, 9):
        total = level.alpha + level.sigma if cfg.name == "flow" else level.alpha**2 + level.sigma**2
        assert total == pytest.approx(1, abs=1e-12)


@each_schedule
def test_labels_name_the_level(cfg):
    u = torch.rand(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trained = training_level(cfg, u)
    named = level_at(cfg, trained.t)
    torch.testing.assert_close(named.alpha, trained.alpha)
    torch.testing.assert_close(named.sigma, trained.sigma)
    for level in sampling_levels(cfg, 6):
        assert level_at(cfg, level.t) == pytest.approx(level)


@each_schedule
def test_training_covers_what_sampling_uses(cfg):
    ends = training_level(cfg, torch.tensor([0.0, 1.0], dtype=torch.float64))
    first = sampling_levels(cfg, 5)[0]
    assert (ends.alpha[1].item(), ends.sigma[1].item()) == pytest.approx((first.alpha, first.sigma))
    assert ends.t[0] == 0


@pytest.mark.parametrize("name", ["sqrt_linear", "linear", "cosine", "flow"])
def test_shift_multiplies_the_noise_to_signal_ratio(name):
    plain, shifted = (sampling_levels(ScheduleConfig(name, shift=shift), 8) for shift in (1.0, 2.5))
    for before, after in zip(plain, shifted, strict=True):
        assert ratio(after) == pytest.approx(2.5 * ratio(before))


def test_flow_shift_is_that_of_the_paper():
    for i, level in enumerate(sampling_levels(ScheduleConfig("flow", shift=3.0), 10)):
        t = 1 - i / 10
        assert level.t == level.sigma == pytest.approx(3 * t / (1 + 2 * t))


def test_flow_trains_on_logit_normal_times():
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    t = training_level(ScheduleConfig("flow", logit_mean=0.3, logit_std=0.8), torch.special.ndtr(z)).t
    torch.testing.assert_close(t, torch.sigmoid(0.3 + 0.8 * z))


def test_discrete_training_reaches_every_index_alike():
    u = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
    t = training_level(ScheduleConfig("linear"), u).t
    assert torch.equal(t.long().bincount(), torch.full((1000,), 3))


def test_linear_betas():
    alpha = level_at(ScheduleConfig("linear", steps=50, start=0.01, end=0.2), torch.arange(-1, 50)).alpha.double()
    betas = torch.linspace(0.01, 0.2, 50, dtype=torch.float64)
    torch.testing.assert_close(1 - (alpha[1:] / alpha[:-1]) ** 2, betas, rtol=1e-4, atol=1e-6)


def test_zero_terminal_snr_keeps_the_first_level():
    plain, zero = ScheduleConfig("sqrt_linear"), ScheduleConfig("sqrt_linear", zero_terminal_snr=True)
    assert level_at(zero, 0) == pytest.approx(level_at(plain, 0))
    assert level_at(zero, 999)[:2] == (0, 1)


@pytest.mark.parametrize("steps", [1, 3, 20, 400, 1000])
def test_pvdm_times(steps):
    times = torch.linspace(-1, 999, steps + 1).int().flip(0)
    assert [level.t for level in sampling_levels(ScheduleConfig("sqrt_linear"), steps)] == times.tolist()


def test_karras_spacing_is_even_in_the_seventh_root():
    levels = sampling_levels(ScheduleConfig("sqrt_linear"), 10, "karras")[:-1]
    roots = torch.tensor([ratio(level) for level in levels], dtype=torch.float64) ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(9) / 9)
    assert levels[0].t == 999 and levels[-1].t == 0


@pytest.mark.parametrize("name, shift", [("cosine", 1.0), ("cosine", 3.0), ("flow", 1.0), ("flow", 0.5)])
def test_logit_spacing_is_even_in_the_logit_of_half_the_log_ratio(name, shift):
    levels = sampling_levels(ScheduleConfig(name, shift=shift), 10, "logit")[:-1]
    assert levels[0].alpha == 0
    places = torch.tensor([0.0] + [1 / (1 + (ratio(level) / shift) ** 0.5) for level in levels[1:]], dtype=torch.float64)
    torch.testing.assert_close(places.diff(), (places[-1] / 9).expand(9))
    assert ratio(levels[-1]) == pytest.approx(shift * math.tan(math.pi / 400))


@pytest.mark.parametrize("name", ["linear", "sqrt_linear"])
def test_logit_spacing_covers_a_table(name):
    levels = sampling_levels(ScheduleConfig(name), 10, "logit")
    assert levels[0].t == 999 and levels[-2].t == 0


def labels(cfg, steps):
    return [level.t for level in sampling_levels(cfg, steps)]


def test_respacing():
    cfg = ScheduleConfig("linear")
    assert labels(cfg, "ddim50") == [*range(980, -1, -20), -1]
    times = labels(cfg, "10,20,30")
    assert [sum(low <= t < high for t in times) for low, high in [(0, 334), (334, 667), (667, 1000)]] == [10, 20, 30]
    assert times[0] == 999 and times[-2:] == [0, -1]  # every section is taken from end to end
    t = torch.tensor(labels(ScheduleConfig("cosine"), "1,3"))
    torch.testing.assert_close(t, torch.tensor([1, 5 / 6, 4 / 6, 0.5, 0]))


@pytest.mark.parametrize("steps, taken", [
    ("1,1", [0, 5]),                    # one of a section is its first
    ("2,3", [0, 4, 5, 7, 9]),
    ("3,2,2", [0, 2, 3, 4, 6, 7, 9]),   # 10 levels are sections of 4, 3 and 3; 1.5 is rounded to the even 2
    ("5,5", [*range(10)]),
    (" 2 , 3 ", [0, 4, 5, 7, 9]),
    ("ddim10", [*range(10)]),
    ("ddim5", [0, 2, 4, 6, 8]),
    ("ddim4", [0, 3, 6, 9]),            # the stride need not divide the number of levels
    ("ddim2", [0, 5]),                  # of strides that make as many, the smallest
    ("ddim1", [0]),
])
def test_respaced_labels(steps, taken):
    assert labels(ScheduleConfig("linear", steps=10), steps) == [*taken[::-1], -1]


@pytest.mark.parametrize("counts", [(10, 20, 30), (21, 21), (23, 25, 27, 29)])
def test_sections_have_the_published_labels(counts):
    # The published spacing adds up a float stride, and halves fall to one side or the other by its error.
    sizes = [len(part) for part in np.array_split(np.arange(1000), len(counts))]
    starts = np.cumsum([0, *sizes])
    strides = [np.cumsum([0.0] + [(size - 1) / (count - 1)] * (count - 1)) for size, count in zip(sizes, counts, strict=True)]
    taken = np.concatenate([start + np.rint(stride) for start, stride in zip(starts, strides, strict=False)])
    assert labels(ScheduleConfig("linear"), ",".join(map(str, counts))) == [*taken[::-1], -1]


@pytest.mark.parametrize("steps, near", [("ddim37", "ddim36"), ("ddim0", "ddim1"), ("ddim2000", "ddim1000")])
def test_a_stride_that_does_not_exist_is_told_another(steps, near):
    with pytest.raises(ValueError, match=f"steps='{steps}'.*; use {near}$"):
        sampling_levels(ScheduleConfig("linear"), steps)
    assert len(labels(ScheduleConfig("linear"), near)) == int(near.removeprefix("ddim")) + 1


def test_a_number_may_be_text():
    cfg = ScheduleConfig("flow")
    assert sampling_levels(cfg, "12") == sampling_levels(cfg, 12)


@pytest.mark.parametrize("keys, word", [
    ({"name": "cosin"}, "cosine"),
    ({"shift": 0.0}, "shift"),
    ({"name": "cosine", "steps": 100}, "schedule.steps=100 is not read"),
    ({"name": "sqrt_linear", "logit_std": 1.0}, "logit_std"),
    ({"name": "flow", "zero_terminal_snr": False}, "zero_terminal_snr"),
    ({"name": "linear", "start": 0.1, "end": 0.01}, "start=0.1"),
    ({"name": "linear", "steps": 1}, "at least 2"),
])
def test_nonsense_is_refused(keys, word):
    with pytest.raises(ValueError, match=word) as error:
        ScheduleConfig(**keys)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, steps, spacing", [
    ("linear", 1001, "uniform"), ("linear", 0, "uniform"), ("linear", -3, "uniform"), ("linear", "ddim37", "uniform"),
    ("cosine", "ddim50", "uniform"), ("linear", "10,,3", "uniform"), ("linear", "999,1", "uniform"),
    ("linear", "10,20,", "uniform"), ("linear", "10;20", "uniform"), ("linear", "0,10", "uniform"),
    ("linear", "ddim", "uniform"), ("linear", "ddim 50", "uniform"), ("linear", "ddim50,10", "uniform"),
    ("linear", "ddim50", "karras"), ("linear", "", "uniform"), ("linear", "400/20", "uniform"),
    ("linear", "a", "uniform"), ("linear", "10,20", "karras"), ("linear", 10, "even"), ("linear", 2.5, "uniform"),
])
def test_impossible_steps_are_refused(name, steps, spacing):
    with pytest.raises(ValueError, match=r"steps|spacing") as error:
        sampling_levels(ScheduleConfig(name), steps, spacing)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, t", [("linear", 1000), ("linear", -2), ("linear", 3.5), ("cosine", 1.1)])
def test_levels_outside_the_schedule_are_refused(name, t):
    with pytest.raises(ValueError, match="is not in schedule"):
        level_at(ScheduleConfig(name), t)


def test_config_is_read_from_yaml():
    from omegaconf import OmegaConf
    cfg = OmegaConf.merge(OmegaConf.structured(ScheduleConfig), {"name": "linear", "steps": 10})
    assert OmegaConf.to_object(cfg) == ScheduleConfig("linear", steps=10)
