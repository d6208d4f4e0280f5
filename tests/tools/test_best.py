"""Which metric picks the best weights, and what better means."""

import pytest

from tools.best import Best, best_metric, measured_every
from tools.loop import LoopConfig

MODES = {"loss": "min", "psnr": "max", "panel/ssim": "max"}


def cfg(best=None, validate=100, sample=30):
    return LoopConfig(best=best, validate_every=validate, sample_every=sample)


def test_without_a_wish_the_first_metric_judges():
    assert best_metric(cfg(), MODES) == ("loss", "min")
    assert best_metric(cfg(validate=0, sample=0), MODES) == ("loss", "min")  # there may be no best at all


@pytest.mark.parametrize("name", MODES)
def test_the_metric_says_what_is_better(name):
    assert best_metric(cfg(name), MODES) == (name, MODES[name])


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r'loop\.best="pnsr" .*did you mean "psnr".*known: loss, psnr, panel/ssim') as error:
        best_metric(cfg("pnsr"), MODES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, cadence", [("psnr", "validate"), ("panel/ssim", "sample")])
def test_a_metric_that_is_never_measured_picks_nothing(name, cadence):
    with pytest.raises(ValueError, match=rf"loop\.best={name} .*loop\.{cadence}_every=0"):
        best_metric(cfg(name, **{cadence: 0}), MODES)
    assert measured_every(cfg(name), name) == {"validate": 100, "sample": 30}[cadence]


@pytest.mark.parametrize("mode, steps", [("max", [1, 3]), ("min", [1, 5])])
def test_better_is_strictly_so_and_finite(mode, steps):
    endless = float("inf") if mode == "max" else -float("inf")
    best, values = Best(), {1: 2.0, 2: float("nan"), 3: 4.0, 4: 4.0, 5: 1.0, 6: endless}
    assert [step for step, value in values.items() if best.update(value, mode, step)] == steps
    assert (best.value, best.step) == (values[steps[-1]], steps[-1])
