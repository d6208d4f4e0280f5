"""The self-check passes where the metrics are right, fails where one is not, and never calls what it left out passed."""

import json

import pytest
import torch

from evals.psnr import PSNR
from evals.selfcheck import Check, checks, run


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr("evals.selfcheck.present", lambda name: None)


def states():
    return {check.name: check.state for check in checks()}


def test_right_metrics_pass_and_what_needs_weights_is_skipped():
    found = states()
    assert set(found.values()) == {"passed", "skipped"}
    assert all((state == "skipped") == name.startswith(("fvd", "lpips")) for name, state in found.items())


def test_a_wrong_metric_fails_and_so_does_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(PSNR, "score", lambda self, real, fake: torch.full((len(real),), 30.0, dtype=torch.float64))
    with pytest.raises(SystemExit) as stop:
        run(real=None, i3d=None, out=str(tmp_path / "c.json"), device="cpu")
    assert stop.value.code == 1 and "failed  psnr of a video and itself: 30, wanted 100" in capsys.readouterr().out
    assert not json.loads((tmp_path / "c.json").read_text())["passed"]


def test_nan_is_a_failure():
    assert Check("x", 0.0, float("nan"), 1.0).state == "failed"


def test_black_and_white_tell_a_network_of_other_weights(small_nets):
    found = {check.name: check.state for check in checks(i3d="weights.pt")}
    assert found["fvd of the true videos and themselves"] == "passed" and found["fvd of black and white videos"] == "failed"


def test_what_is_checked_is_said_before_the_next_check(monkeypatch, capsys):
    def two(*_):
        yield Check("first", 0.0, 0.0)
        assert "passed  first" in capsys.readouterr().out
        yield Check("second", 0.0, 0.0)
    monkeypatch.setattr("evals.selfcheck.checks", two)
    run(real=None, i3d=None, out=None, device="cpu")


@pytest.mark.parametrize("copies", [2, 8])
def test_black_and_white_is_the_distance_of_two_points_however_many_copies(copies, small_nets):
    # No spread on either side: eight numbers that differ by 255 each.
    from evals.fvd import FVD
    metric, names = FVD(), [str(i) for i in range(copies)]
    black = torch.zeros(copies, 3, 16, 16, 3, dtype=torch.uint8)
    metric.update_real(black, names)
    metric.update_fake(255 - black, names)
    assert metric.compute()["mean"] == pytest.approx(8 * 255 ** 2)
