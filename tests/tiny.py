"""Runs of the tiny configurations through the command line, in this process and on one thread."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from configs.schema import FOLDER
from main import main
from tools import checkpoint, dist

ROOT = Path(__file__).parents[1]
SHAPES = ("--data", "SHAPES", "data.options.size=16", "data.options.length=16", "data.options.count=8")
FIRST = ("--exp", "first_stage", "--pretrain_config", str(FOLDER / "autoencoder" / "tiny.yaml"))
GAN = ("--exp", "first_stage", "--id", "gan", "--pretrain_config", str(FOLDER / "autoencoder" / "tiny_gan.yaml"),
       "loss.critic_warmup=2", "loss.ramp=2")
DDPM = ("--exp", "ddpm", "--diffusion_config", str(FOLDER / "latent-diffusion" / "tiny.yaml"))
FAST = ("data.workers=0", "train.validation_clips=4")


class Runs(NamedTuple):
    """Run folders, each stage trained on the one before."""
    results: Path
    first: Path
    gan: Path
    ddpm: Path


@contextlib.contextmanager
def alike() -> Iterator[None]:
    """Compute as the processes of `environment` do: on one thread of the CPU, so that sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.object(dist, "device", lambda: torch.device("cpu")):
            yield
    finally:
        torch.set_num_threads(threads)


def run(*words: str | Path) -> None:
    """Run a command that must succeed."""
    with alike():
        assert main([str(word) for word in words]) == 0, f"failed: {' '.join(map(str, words))}"


def train_all(results: Path, *words: str) -> Runs:
    """Train the three stages with further words on each line."""
    runs = Runs(results, *(results / name for name in ("first_stage_main_SHAPES_42", "first_stage_gan_SHAPES_42",
                                                       "ddpm_main_SHAPES_42")))
    words = (*SHAPES, *FAST, "--results", str(results), *words)
    run(*FIRST, *words, "loop.plot_every=8")
    run(*GAN, "--first_stage_folder", runs.first, *words)
    run(*DDPM, "--first_model", runs.gan / "model_last.pth", *words, "train.sample_steps=4")
    return runs


def model_states(folder: Path) -> dict[str, torch.Tensor]:
    """Last weights of a run, plain and averaged, under one roof."""
    return {f"{name}:{key}": value for name in ("model_last.pth", "ema_model_last.pth")
            for key, value in checkpoint.load(folder / name)["state"].items()}


def environment() -> dict[str, str]:
    """For a process of its own: one thread, no GPU, the project importable from anywhere."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
