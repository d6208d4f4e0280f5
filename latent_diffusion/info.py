"""The command `info`: what a model file is."""

import math
from pathlib import Path
from typing import Any

import yaml

from autoencoder.codec import read_codec
from autoencoder.pvdm import is_pvdm_autoencoder
from evals import carla_model
from latent_diffusion.foreign import recognise
from latent_diffusion.modelfile import build_net
from latent_diffusion.pvdm import is_pvdm_unet, read_pvdm_unet
from tools import checkpoint
from tools.modelfile import WEIGHTS, ModelFile, read_model


def info(*, model: str | None, weights: str) -> None:
    """Print a description of a run folder, a model file, a step checkpoint or a state dict that others released."""
    if not model:
        raise ValueError("--exp info needs --model MODEL: a run folder or a model file")
    facts = describe(read_model(model, kept(Path(model), weights)))
    print(yaml.safe_dump(facts, sort_keys=False, width=math.inf), end="")  # no line is folded


def describe(file: ModelFile) -> dict[str, Any]:
    """Plain description: kind, step, weights, parameters, sizes, statistics."""
    facts: dict[str, Any] = {"file": str(file.path), "sha256": checkpoint.file_hash(file.path),
                             "container": "safetensors" if checkpoint.is_safetensors(file.path) else "torch"}
    if file.kind == "autoencoder" or (file.kind == "foreign" and is_pvdm_autoencoder(file.state)):
        codec = read_codec(file)
        facts |= {"kind": "autoencoder" if file.kind != "foreign" else "PVDM autoencoder (released state dict)",
                  "parameters": count(codec.net), "weights_hash": codec.weights_hash,
                  "latent": {"channels": codec.channels, "t": codec.shape.t, "h": codec.shape.h, "w": codec.shape.w,
                             "positions": codec.shape.total},
                  "latent_mean": _rounded(file.extra.get("latent_mean")), "latent_std": _rounded(file.extra.get("latent_std"))}
    elif file.kind == "diffusion":
        net = build_net(file.config)
        facts |= {"kind": "diffusion", "parameters": count(net), "weights_hash": checkpoint.state_hash(file.state),
                  "sees": list(net.condition.sees), "autoencoder_inside": "first_model" in file.extra}
    elif file.kind == carla_model.KIND:
        net = carla_model.from_file(file)
        facts |= {"kind": "CARLA's classifier and regressor (FDM's metrics)", "parameters": count(net),
                  "weights_hash": checkpoint.state_hash(net.state_dict()), "cells": net.classifier.fc.out_features}
    elif is_pvdm_unet(file.state):
        net = read_pvdm_unet(file.state)
        facts |= {"kind": "PVDM U-Net (released state dict)", "parameters": count(net), "conditional": net.cond}
    elif theirs := recognise(file.state):
        facts |= theirs
    else:
        keys = ", ".join(sorted(map(str, file.state))[:5])
        raise ValueError(f"{file.path} is no model that this project reads (its first keys: {keys})")
    if file.kind != "foreign":
        facts |= {"step": file.step, "weights": file.weights, "config": file.config}
    return facts


def kept(model: Path, weights: str) -> str:
    """The weights that stand for a model: a run of --exp carla has no averages, and stands for its best, or its last."""
    if weights == "ema" and model.is_dir() and not (model / WEIGHTS["ema"]).exists():
        for name in ("best", "raw"):
            if (model / WEIGHTS[name]).is_file() and read_model(model, name).kind == carla_model.KIND:
                return name
    return weights


def count(net) -> int:
    """Learnable parameters."""
    return sum(p.numel() for p in net.parameters())


def _rounded(values) -> list | None:
    return None if values is None else [[round(float(v), 4) for v in row] for row in values]
