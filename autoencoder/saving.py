"""Whether a training step of the autoencoder computes its activations again in the backward pass: where they would not fit."""

import math
from typing import Any, NamedTuple

import torch

from autoencoder.config import FirstStageConfig
from autoencoder.model import AutoencoderConfig, build_autoencoder
from tools import dist, dry_run
from tools.launch import Launch
from tools.memory import free_bytes

SHARE = {"cpu": 0.25, "cuda": 0.7}  # of what is free that activations may take; the rest of a machine is others' too
EVIDENT = 5000                      # bytes of activations for each of a clip: above what was counted (1350 as published)


class Saving(NamedTuple):
    """The decision, and what a run's log says of it ("" = nothing to say)."""
    on: bool
    note: str = ""


def choose_saving(cfg: FirstStageConfig, device: torch.device) -> Saving:
    """Follow train.grad_checkpoint; "auto" compares a micro-batch's activations with the free memory of the device."""
    if cfg.train.grad_checkpoint != "auto":
        return Saving(cfg.train.grad_checkpoint)
    free = free_bytes(device)
    if free is None:
        return Saving(False)
    clips = cfg.loop.micro_batch or max(cfg.loop.batch_size // dist.world(), 1)
    processes = Launch.read().local_world if device.type == "cpu" else 1  # a GPU is one process's own
    room = SHARE.get(device.type, SHARE["cpu"]) * free / processes
    if clips * EVIDENT * 4 * math.prod(cfg.model.clip_shape) < room:
        return Saving(False)
    need = clips * clip_activations(cfg.model, autocast=cfg.train.autocast == "bf16")
    if need <= room:
        return Saving(False)
    return Saving(True, f"train.grad_checkpoint=auto: on, as the activations of {clips} clip{'s' * (clips > 1)} would take "
                        f"{need / 1e9:.1f} GB and {room / 1e9:.1f} GB are theirs ({free / 1e9:.1f} GB are free); "
                        "false keeps them, a smaller loop.micro_batch needs less")


def clip_activations(model: AutoencoderConfig, *, autocast: bool = False, saving: bool = False) -> int:
    """Bytes at the peak of one clip's forward and backward pass, counted without doing them."""
    def make() -> Any:
        net = build_autoencoder(model)
        if saving:
            net.grad_checkpoint = True
        return net

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made = net(torch.empty(1, *model.clip_shape)).clip
        made.float().square().mean().backward()

    with dry_run.hollow(make) as net:
        return dry_run.peak(step)
