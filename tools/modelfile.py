"""What a path given as a model stands for: a model file, a step checkpoint, a run folder, or a foreign state dict."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tools import checkpoint, dist, fsdp, sharded
from tools.ema import Ema

WEIGHTS = {"ema": "ema_model_last.pth", "raw": "model_last.pth", "best": "model_best.pth"}


class ModelFile(NamedTuple):
    """The content of one model file, whatever it was read from."""
    path: Path
    kind: str                     # "autoencoder", "diffusion", or "foreign": a bare state dict
    config: dict[str, Any]        # plain settings from which the owner builds the network
    state: dict[str, Tensor]
    step: int
    weights: str                  # "ema", "raw", "best" or "foreign"
    extra: dict[str, Any]         # latent statistics and the like


def locate(path: str | Path, weights: str = "ema") -> Path:
    """Return the file that a path given as a model stands for.

    Args:
        path: a file or a run folder, which stands for its EMA weights unless told otherwise.
        weights: "ema", "raw" or "best"; only asked of a run folder or a step checkpoint.

    Raises:
        ValueError: the path does not exist, or the run has no such weights yet.
    """
    path = Path(path)
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights} is not known; use one of {', '.join(WEIGHTS)}")
    if path.is_file() or sharded.is_folder(path):
        return path
    if not path.exists():
        raise ValueError(f"no model at {path}; give a model file or a run folder such as results/first_stage_main_UCF101_42")
    file = path / WEIGHTS[weights]
    if not file.is_file():
        present = [name for name, file in WEIGHTS.items() if (path / file).is_file()]
        raise ValueError(f"{path} holds no {WEIGHTS[weights]}; "
                         + (f"use --weights {present[0]}" if present else "it is no finished or saved run, give a model file"))
    return file


def read_model(path: str | Path, weights: str = "ema") -> ModelFile:
    """Read a model; a file without our format mark comes back as kind "foreign" with its raw content as state.

    A list that begins with a mapping, as some trainers write one of all their states, comes by its places: "0", "1", ...

    Raises:
        ValueError: nothing there, damaged, or a pickle that would run code.
    """
    file = locate(path, weights)
    payload = checkpoint.load_raw(file)
    if isinstance(payload, (list, tuple)) and payload and isinstance(payload[0], dict):
        payload = {str(place): part for place, part in enumerate(payload)}
    if not isinstance(payload, dict):
        raise ValueError(f"{file} holds a {type(payload).__name__}, not a model; give a model file of this project or of PVDM")
    if "format" not in payload:
        return ModelFile(file, "foreign", {}, payload, 0, "foreign", {})
    checkpoint.check_format(payload, file)
    if "stage" in payload:  # a step checkpoint holds both kinds of weights beside all that training needs
        stage = payload["stage"]
        if weights == "best":
            raise ValueError(f"{file} is a step checkpoint, which has no best weights; give the run folder, or ema or raw")
        raw = weights == "raw" or "ema_weights" not in stage  # --exp carla keeps no averages
        return ModelFile(file, stage["kind"], stage["config"], stage["net"] if raw else stage["ema_weights"],
                         payload["step"], "raw" if raw else "ema", stage["extra"])
    return ModelFile(file, payload["kind"], payload["config"], payload["state"], payload["step"],
                     payload["weights"], payload["extra"])


def to_safetensors(model: str | Path, out: str | Path, weights: str = "ema") -> Path:
    """Write a model as safetensors, which reads back wherever a model file goes and holds no code.

    Args:
        model: a run folder, a model file, a step checkpoint, or a state dict that others released.
        out: the file to write, ending in .safetensors.

    Raises:
        ValueError: no model, another ending, or a foreign file that holds more than tensors.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"a safetensors file should end in .safetensors, got {out}")
    file = read_model(model, weights)
    if file.kind == "foreign":
        state = file.state
        while len(state) == 1 and isinstance(inner := next(iter(state.values())), dict):
            state = inner  # {"state_dict": {...}}
        checkpoint.save_safetensors(out, {"state": state})
    else:
        checkpoint.save_safetensors(out, {"kind": file.kind, "config": file.config, "state": file.state, "step": file.step,
                                          "weights": file.weights, "extra": file.extra})
    return out


def write_models(folder: Path, which: str, net: nn.Module, ema: Ema, common: dict[str, Any]) -> None:
    """Write a run's model files, whole; all processes call this, and the first one writes.

    Args:
        which: "last" is model_last.pth and ema_model_last.pth; "best" is model_best.pth, of the averaged weights.
        common: kind, config, step and extra (see ModelFile).
    """
    weights = {"best": ema.weights()} if which == "best" else {"raw": net.state_dict(), "ema": ema.weights()}
    files = [(WEIGHTS[name], name, state) for name, state in weights.items()]
    for decay in ema.cfg.decays[1:] if which == "last" else ():  # the other averages, to be compared
        files.append((f"ema_{decay}_model_last.pth", "ema", ema.weights(decay)))
    for file, name, state in files:
        whole = fsdp.gathered(state)
        if dist.is_main():
            checkpoint.save(folder / file, common | {"state": whole, "weights": name})
