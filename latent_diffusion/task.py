"""Tasks by name: which frames are known, and how many there are, when the command line does not say."""

import torch
from torch import Tensor

from latent_diffusion.masks import parse_known

TASKS = ("generate", "predict", "predict_backward", "interpolate", "infill")


def known_frames(task: str, clip: int, frames: int | None, known: str | None) -> Tensor:
    """Return the mask of a task: bool t.

    Args:
        clip: frames of the model's clip: without `known`, predict is given the first and makes one, predict_backward is
            given the last and makes the one before, interpolate is given the first and the last and makes one between.
        frames: of the video; None = as many as the task's default has.
        known: SPEC such as 0-3,12.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; use one of {', '.join(TASKS)}")
    if frames is not None and frames < 1:
        raise ValueError(f"a video needs at least one frame, got --frames {frames}")
    if task == "generate":
        if known:
            raise ValueError(f"--task generate knows nothing, got --known {known}; use --task predict or infill")
        return torch.zeros(frames or clip, dtype=torch.bool)
    frames = frames or clip * (3 if task == "interpolate" else 2)
    if known is not None and not known.strip():
        raise ValueError(f'--task {task} needs given frames, got --known "{known}", which is none; write it like 0-3,12, or '
                         "use --task generate")
    if known:
        mask = torch.as_tensor(parse_known(known, frames))
        _check_task(task, mask, known)
        return mask
    if task == "infill":
        raise ValueError("--task infill needs the given frames: --known SPEC, like 0-3,12")
    mask = torch.zeros(frames, dtype=torch.bool)
    given = min(clip, (frames - 1) // (2 if task == "interpolate" else 1))
    if given < 1:
        raise ValueError(f"--task {task} needs more frames than --frames {frames}")
    if task in ("predict", "interpolate"):
        mask[:given] = True
    if task in ("predict_backward", "interpolate"):
        mask[-given:] = True
    return mask


def _check_task(task: str, mask: Tensor, spec: str) -> None:
    """A task's name says where its known frames lie."""
    first, last = bool(mask[0]), bool(mask[-1])
    if (task == "predict" and (not first or last)) or (task == "predict_backward" and (first or not last)) \
            or (task == "interpolate" and not (first and last)):
        where = {"predict": "the beginning", "predict_backward": "the end", "interpolate": "both ends"}[task]
        raise ValueError(f"--task {task} is given frames at {where} of the video, got --known {spec}; use --task infill")
