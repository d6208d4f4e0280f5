"""A training run that is killed and started again ends in the weights of a run that was not, bit for bit."""

import subprocess
import sys
import time

import pytest
import torch

from tests.tiny import DDPM, FAST, FIRST, GAN, ROOT, SHAPES, environment, model_states, run
from tools import checkpoint
from tools.log import read_metrics

STEPS = 24
RARE = ("loop.log_every=12", "loop.validate_every=12", "loop.save_every=3")
STAGES = {"first_stage": FIRST, "tiny_gan": GAN, "ddpm": DDPM}


def words(stage, tiny, results):
    """A stage's command."""
    more = {"first_stage": ("train.latent_noise=0.1", "train.flip=0.5", "data.workers=1"), "ddpm": ("--first_model", tiny.gan),
            "tiny_gan": ("--first_stage_folder", tiny.first)}
    return [str(word) for word in (*STAGES[stage], *SHAPES, *FAST, *RARE, *more[stage], "--steps", STEPS, "--results", results)]


def kill_at_first_checkpoint(command, results):
    """Start a command, kill -9 it when it has saved, and return its run folder."""
    process = subprocess.Popen([sys.executable, str(ROOT / "main.py"), *command], env=environment(), cwd=results,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not list(results.glob("*/checkpoints/step-*.pt")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it ended before it was killed"
    (folder,) = results.iterdir()
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_continued_equals_not_killed(tiny, tmp_path, stage):
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    folder = kill_at_first_checkpoint(words(stage, tiny, tmp_path / "killed"), tmp_path / "killed")
    stopped = checkpoint.latest(folder / "checkpoints")
    assert 0 < checkpoint.load(stopped)["step"] < STEPS
    run(*words(stage, tiny, tmp_path / "killed"))
    assert "continuing after step" in (folder / "log.txt").read_text()
    run(*words(stage, tiny, tmp_path / "whole"))
    whole = tmp_path / "whole" / folder.name
    torch.testing.assert_close(model_states(folder), model_states(whole), rtol=0, atol=0)
    validations = [[line for line in read_metrics(f / "metrics.jsonl") if line["name"].startswith("validate/")]
                   for f in (folder, whole)]
    assert validations[0] == validations[1] and validations[0]
