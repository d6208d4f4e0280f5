"""What a diffusion model file holds, and how a model is built from it: ours, or PVDM's released U-Net."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoencoder.codec import Codec, read_codec
from autoencoder.planes import PlaneShape
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser, PastForm
from latent_diffusion.process import ProcessConfig
from latent_diffusion.pvdm import PVDMUNet, is_pvdm_unet, read_pvdm_unet
from latent_diffusion.schedule import ScheduleConfig
from latent_diffusion.unet import UNetConfig
from tools import checkpoint
from tools.modelfile import ModelFile, read_model

PVDM_SCHEDULE = ScheduleConfig(name="sqrt_linear", steps=1000, start=0.0015, end=0.0195)
PVDM_PROCESS = ProcessConfig(parametrisation="eps", loss="l2")
FIRST_MODEL = "first_model.pth"  # the autoencoder, copied into the run folder of the diffusion that was trained on it


@dataclass(frozen=True)
class DiffusionModel:
    """A diffusion model as it is sampled from."""
    net: LatentDenoiser
    codec: Codec
    schedule: ScheduleConfig
    process: ProcessConfig
    weights_hash: str
    file: Path
    step: int
    weights: str


def model_config(cfg: DiffusionStageConfig, codec: Codec) -> dict[str, Any]:
    """The plain settings from which a model file's network is built."""
    shape = codec.shape
    return {"unet": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(cfg.unet).items()},
            "condition": plain_options(cfg.condition), "schedule": asdict(cfg.schedule), "process": asdict(cfg.process),
            "latent": {"t": shape.t, "h": shape.h, "w": shape.w, "channels": codec.channels, "frames": codec.frames}}


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a model file, with the defaults for options that are younger than it."""
    parts = {"unet": UNetConfig, "schedule": ScheduleConfig, "process": ProcessConfig}
    return config | {key: asdict(kind(**config[key])) for key, kind in parts.items() if key in config}


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in options.items()}


def build_net(config: dict[str, Any]) -> LatentDenoiser:
    """Make the untrained network that a model file's settings describe."""
    latent = dict(config["latent"])
    channels, frames = latent.pop("channels"), latent.pop("frames")
    return LatentDenoiser(UNetConfig(**config["unet"]), config["condition"], PlaneShape(**latent), channels, frames)


def load_diffusion(path: str | Path, first_model: str | Path | None = None, weights: str = "ema") -> DiffusionModel:
    """Load a diffusion model and its autoencoder.

    Args:
        path: run folder, model file, step checkpoint, or a released PVDM U-Net (which needs first_model).
        first_model: the autoencoder; by default the one that the model was trained on, which its file carries.

    Raises:
        ValueError: nothing there, not a diffusion model, or an autoencoder with other latents.
    """
    file = read_model(path, weights)
    if file.kind == "foreign":
        return _load_released(file, first_model)
    net = _own_net(file)
    codec = read_codec(read_model(first_model, weights)) if first_model else _own_codec(file)
    _check_latents(codec, net, file.path)
    return DiffusionModel(net.eval().requires_grad_(False), codec, ScheduleConfig(**file.config["schedule"]),
                          ProcessConfig(**file.config["process"]), checkpoint.state_hash(file.state), file.path, file.step,
                          file.weights)


def _own_codec(file: ModelFile) -> Codec:
    if "first_model" in file.extra:
        own = file.extra["first_model"]
        return read_codec(ModelFile(file.path, own["kind"], own["config"], own["state"], own["step"], own["weights"],
                                    own["extra"]))
    beside = file.path.parent.parent / FIRST_MODEL  # a step checkpoint lies in RUN/checkpoints
    if not beside.is_file():
        raise ValueError(f"{file.path} has no autoencoder with it ({beside} is missing); name it with --first_model")
    return read_codec(read_model(beside))


def _load_released(file: ModelFile, first_model: str | Path | None) -> DiffusionModel:
    if not is_pvdm_unet(file.state):
        raise ValueError(f"{file.path} is neither a diffusion model of this project nor PVDM's; "
                         f"look at it with --exp info --model {file.path}")
    if first_model is None:
        raise ValueError(f"{file.path} is a released PVDM U-Net, which comes without its autoencoder; "
                         "name that with --first_model")
    codec = read_codec(read_model(first_model))
    released = read_pvdm_unet(file.state, codec.shape)
    net = wrap_released(released)
    _check_latents(codec, net, file.path)
    return DiffusionModel(net.eval().requires_grad_(False), codec, PVDM_SCHEDULE, PVDM_PROCESS,
                          checkpoint.state_hash(net.state_dict()), file.path, 0, "foreign")


def wrap_released(released: PVDMUNet) -> LatentDenoiser:
    """A released U-Net behind the interface of our own: the clip before on the channels, or no condition at all."""
    unet = released.net
    condition = {"name": "concat", "sees": ["past"] if released.cond else []}
    with torch.device("meta"):  # its own U-Net is never used
        net = LatentDenoiser(unet.cfg, condition, unet.shape, unet.latent_channels, unet.shape.t)
    net.unet = unet
    return net


def _check_latents(codec: Codec, net: LatentDenoiser, path: Path) -> None:
    if (codec.shape, codec.channels, codec.frames) != (net.shape, net.channels, net.frames):
        raise ValueError(f"{path} was trained on latents {net.channels} x {net.shape} of {net.frames} frames, the "
                         f"autoencoder makes {codec.channels} x {codec.shape} of {codec.frames}; "
                         "give the --first_model that it was trained with")


def load_net(path: str | Path, weights: str = "ema") -> LatentDenoiser:
    """Load the network of a diffusion model without its autoencoder: ours, or PVDM's released U-Net."""
    file = read_model(path, weights)
    if file.kind == "foreign" and is_pvdm_unet(file.state):
        return wrap_released(read_pvdm_unet(file.state))
    return _own_net(file)


def _own_net(file: ModelFile) -> LatentDenoiser:
    if file.kind != "diffusion":
        raise ValueError(f"{file.path} is a model of kind {file.kind}, not a diffusion model; give the run of --exp ddpm, "
                         f"or look at it with --exp info --model {file.path}")
    net = build_net(file.config)
    checkpoint.load_strict(net, file.state, str(file.path))
    return net


def load_unet(path: str | Path, weights: str = "ema") -> nn.Module:
    """Load a U-Net alone, in PVDM's form: `eps = net(x_t, t, past)` with b c n, b, b c n or None.

    Args:
        path: a released PVDM state dict, or a model of ours whose condition is the clip before.
    """
    file = read_model(path, weights)
    if file.kind == "foreign":
        return read_pvdm_unet(file.state).eval()
    return PastForm(_own_net(file), ScheduleConfig(**file.config["schedule"]), ProcessConfig(**file.config["process"])).eval()
