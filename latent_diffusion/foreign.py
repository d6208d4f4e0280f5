"""Checkpoints of MCVD, RaMViD, FDM and VIDM, told by their keys: they denoise pixels, so they can be named but not loaded."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from latent_diffusion.pvdm import strip_prefixes

STEP_KEYS = ("step", "iters", "3")  # of FDM, VIDM and MCVD; RaMViD tells the step in the file's name only
BUFFERS = re.compile(r"(^|\.)(sigmas|betas|alphas|alphas_prev|k|k_cum|theta_t|coords|new_coords|spynet\.mean|spynet\.std)$")


class System(NamedTuple):
    """One of the other systems: what its checkpoints are, and how they are told."""
    kind: str
    denoises: str                          # "its network denoises ..."
    recipes: str                           # its settings for latents, below configs/
    fits: Callable[[Mapping[str, Any]], bool]  # from names and tensors, without prefixes


def _is_mcvd(weights: Mapping[str, Any]) -> bool:
    return any(key.startswith("unet.all_modules.") for key in weights)


def _guided(weights: Mapping[str, Any], ndim: int) -> bool:
    """A U-Net in the names of guided diffusion whose first convolution has weights of so many axes."""
    first = weights.get("input_blocks.0.0.weight")
    return isinstance(first, Tensor) and first.ndim == ndim and "time_embed.0.weight" in weights


def _is_ramvid(weights: Mapping[str, Any]) -> bool:
    return _guided(weights, 5)


def _is_fdm(weights: Mapping[str, Any]) -> bool:
    return _guided(weights, 4) and any(".temporal_attention." in key for key in weights)


def _is_vidm_motion(weights: Mapping[str, Any]) -> bool:
    return {"encoder.input_blocks.0.0.weight", "unet.input_blocks.0.0.weight"} <= weights.keys()


def _is_vidm_content(weights: Mapping[str, Any]) -> bool:
    return _guided(weights, 4) and "input.input" in weights


SYSTEMS = (
    System("MCVD diffusion", "blocks of pixel frames, stacked on the channels", "recipes/mcvd", _is_mcvd),
    System("RaMViD diffusion", "volumes of pixel frames by 3-D convolutions", "recipes/ramvid", _is_ramvid),
    System("FDM diffusion", "pixel frames that attend to each other over time", "recipes/fdm", _is_fdm),
    System("VIDM motion generator", "one pixel frame after another, from the first and the optical flow", "recipes/vidm",
           _is_vidm_motion),
    System("VIDM content generator", "the first pixel frame", "recipes/vidm", _is_vidm_content),
)


def recognise(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe a checkpoint of one of the SYSTEMS, and say why it does not load; None: it is of none of them.

    Args:
        state: the content of the file, whatever is wrapped around the weights; a list by its places, as MCVD's
            (weights, optimizer, epoch, step, averaged weights).
    """
    weights = strip_prefixes(state.get("0", state))
    system = next((system for system in SYSTEMS if system.fits(weights)), None)
    if system is None:
        return None
    step = next((state[key] for key in STEP_KEYS if type(state.get(key)) is int), None)
    learned = [value for key, value in weights.items() if isinstance(value, Tensor) and not BUFFERS.search(key)]
    return {"kind": f"{system.kind} (pixel space)", **({} if step is None else {"step": step}),
            "parameters": sum(value.numel() for value in learned),
            "loads": f"no, its network denoises {system.denoises}; here an autoencoder's latents are denoised, for which its "
                     f"settings are in configs/{system.recipes}"}
