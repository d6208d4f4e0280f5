"""The command `plan`: the windows of a scheme, as JSON on stdout and nothing else."""

import json

from latent_diffusion.masks import parse_known
from latent_diffusion.schemes import plan


def print_plan(*, scheme: str, frames: int | None, known: str | None, window: int | None, stride: int | None) -> None:
    """Print [{"observed": [...], "target": [...]}, ...]; one unit is one frame."""
    if not frames:
        raise ValueError("--exp plan needs the length of the video: --frames T")
    window = window or 20  # FDM's sizes
    given = parse_known(known or "", frames).nonzero().flatten().tolist()
    windows = plan(scheme, frames, given, window=window, stride=stride or max(1, window // 2))
    print(json.dumps([{"observed": w.observed, "target": w.target} for w in windows]))
