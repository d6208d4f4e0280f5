"""The command sample, in this process, and a model for it."""

import json
from pathlib import Path

import numpy as np
import torch
from fakes import autoencoder, diffusion_config, diffusion_stage, first_config

from autoencoder.codec import Codec
from main import main


def make_model(folder: Path, *settings: str) -> Path:
    """Export a small model that was not trained."""
    cfg = diffusion_config("unet.mult=[1]", "unet.attention=[1]", *settings)
    stage = diffusion_stage(cfg, Codec(autoencoder(first_config())))
    torch.nn.init.normal_(stage.net.unet.conv_out.weight, std=0.1)
    stage.export(5, folder, "last")
    return folder


def raw(model: Path) -> tuple:
    """Words for the last weights of a model: averaged ones still know nothing."""
    return "--model", model, "--weights", "raw"


def data(videos: Path, *words) -> tuple:
    """Words for the begin of each video of a folder."""
    return "--data", "VIDEOS", "--data_path", videos, "data.split=all", "--starts", "0", *words


def sample(out: Path, *words) -> tuple[dict, dict[str, torch.Tensor]]:
    """Run the command; return sample.json and the samples by name."""
    assert main(["--exp", "sample", "--steps", "2", "--out", str(out), *map(str, words)]) == 0
    made = {p.stem: torch.from_numpy(np.load(p)) for p in sorted((out / "samples").glob("*.npy"))}
    return json.loads((out / "sample.json").read_text()), made


def refused(capsys, *words) -> str:
    """Run a command that must fail; return its one line."""
    assert main(["--exp", *map(str, words)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line
