"""Training of the networks of CARLA, through the command line, on a town in which the place of a frame is visible."""

import numpy as np
import pytest
import torch
from town import drive, look, put_town

from evals.carla_model import load_carla
from evals.carla_train import augment
from main import main
from tests.tiny import run
from tools import checkpoint
from tools.log import read_metrics

FAST = ("--exp", "carla", "--data", "CARLA", "model.arch=small", "--resolution", "16", "--workers", "0",
        "optim.schedule=constant", "optim.warmup=0", "train.validation_frames=64")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return put_town(tmp_path_factory.mktemp("data") / "no-traffic", drives=42, length=12)


def trained(town, results, *words):
    run(*FAST, "--data_path", town, "--results", results, *words)
    return results / "carla_main_CARLA_42"


def values(folder, name):
    return [record["value"] for record in read_metrics(folder / "metrics.jsonl") if record["name"] == name]


def test_places_of_new_drives_are_learned(town, tmp_path):
    folder = trained(town, tmp_path, "--steps", 120, "--batch_size", 32, "optim.lr=2e-3", "train.augment=false",
                     "loop.validate_every=40", "loop.sample_every=120")
    test = [drive(number, 12) for number in (40, 41)]
    locator = load_carla(folder)
    errors = [np.linalg.norm(locator.coordinates(look(coords)) - coords, axis=1) for coords in test]
    spread = np.linalg.norm(np.concatenate(test) - np.concatenate([drive(n, 12) for n in range(40)]).mean(0), axis=1).mean()
    assert np.mean(errors) < spread / 4
    assert min(values(folder, "validate/error")) == pytest.approx(np.mean(errors), rel=1e-3)
    assert values(folder, "validate/accuracy")[-1] > 0.5
    assert f"errs by {spread:.4g} m" in (folder / "log.txt").read_text()
    assert (folder / "samples/step-00000120.png").is_file()


def test_a_run_that_stops_and_goes_on_ends_in_the_same_weights(town, tmp_path):
    words = ("--batch_size", 4, "loop.micro_batch=2", "loop.save_every=2")
    whole = trained(town, tmp_path / "whole", *words, "--steps", 4)
    trained(town, tmp_path / "parts", *words, "--steps", 2)
    parts = trained(town, tmp_path / "parts", *words, "--steps", 4)
    first, second = (checkpoint.load(checkpoint.latest(folder / "checkpoints"))["stage"] for folder in (whole, parts))
    assert checkpoint.state_hash(first["net"]) == checkpoint.state_hash(second["net"])
    start = checkpoint.load(checkpoint.step_path(whole / "checkpoints", 2))["stage"]["net"]
    for part in ("classifier.fc.weight", "regressor.resnet.layers.0.0.weight", "regressor.regressors.11.bias"):
        assert not torch.equal(start[part], first["net"][part])  # both networks and their heads are trained


def test_a_step_checkpoint_and_the_last_weights_are_models(town, tmp_path):
    folder = trained(town, tmp_path, "--batch_size", 2, "--steps", 2)
    hashes = {load_carla(path).settings["weights_hash"] for path in (folder / "model_last.pth",
                                                                     checkpoint.latest(folder / "checkpoints"))}
    assert len(hashes) == 1
    more = trained(town, tmp_path / "more", "--batch_size", 2, "--steps", 1, "--init_from", folder, "optim.lr=1e-12",
                   "optim.weight_decay=0")
    for key, value in checkpoint.load(folder / "model_last.pth")["state"].items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(checkpoint.load(more / "model_last.pth")["state"][key], value)


def test_without_a_test_side_the_log_says_what_validates(town, tmp_path):
    folder = trained(town, tmp_path, "--batch_size", 2, "--steps", 1, "data.split=all")
    assert "validation: frames of the training videos (data.split=all)" in (folder / "log.txt").read_text()


def test_several_processes_are_refused(town, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.dist.world", lambda: 2)
    assert main([*FAST, "--data_path", str(town), "--results", str(tmp_path)]) == 2
    assert "--exp carla trains in one process, got 2; start it without torchrun" in capsys.readouterr().err


# --- changes of training frames ------------------------------------------------------------------------------

def pictures(count=3):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8))


def test_a_frame_is_changed_alike_in_any_batch_and_otherwise_at_another_index():
    index = torch.tensor([4, 9, 2])
    together = augment(pictures(), index, seed=1)
    torch.testing.assert_close(augment(pictures()[1:2], index[1:2], seed=1), together[1:2])
    for other in (augment(pictures(), index + 1, seed=1), augment(pictures(), index, seed=2)):
        assert (other - together).abs().amax((1, 2, 3)).min() > 0.01


def test_grey_stays_grey_and_changes_by_at_most_a_tenth():
    grey = torch.full((200, 12, 12, 3), 128, dtype=torch.uint8)
    changed = augment(grey, torch.arange(200), seed=0)
    light = changed.mean((1, 2, 3)) / (128 / 255)
    assert changed.amax((1, 2, 3)).sub(changed.amin((1, 2, 3))).max() < 1e-3
    assert 0.9 <= light.min() < 0.92 and 1.08 < light.max() <= 1.1


def test_frames_are_blurred_more_along_y_than_along_x():
    stripes = torch.zeros(100, 24, 24, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    across, along = (augment(x, torch.arange(100), seed=0) for x in (stripes, stripes.transpose(1, 2)))
    inner = slice(6, -6)
    contrast = [x[:, inner, inner].std((1, 2, 3)).mean() for x in (across, along)]
    assert contrast[1] < contrast[0] < 0.3  # kernels of 5 and 9 pixels; 0.5 is no blur
