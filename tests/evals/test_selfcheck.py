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
    assert found["fvd of the true videos and themselves"] == "passed" and found["fvd of 8 black and 8 white videos"] == "failed"
