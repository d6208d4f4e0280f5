"""The command `plan`: the windows of a scheme or of a schedule as JSON on stdout and nothing else, or drawn as well."""

import json
import sys
from pathlib import Path

import torch

from latent_diffusion.adaptive import feature_distance, thumbnails
from latent_diffusion.masks import parse_known
from latent_diffusion.plan_picture import draw
from latent_diffusion.schedule_file import read_schedule
from latent_diffusion.schemes import Distance, is_adaptive, plan
from tools.tree import find_videos
from tools.video import num_frames, read_video

CHUNK = 64  # frames in memory at once


def print_plan(*, scheme: str, frames: int | None, known: str | None, window: int | None, stride: int | None,
               schedule: str | None = None, input: str | None = None, just_visualise: bool = False,
               out: str | None = None) -> None:
    """Print [{"observed": [...], "target": [...]}, ...]; one unit is one frame."""
    if out and not just_visualise:
        raise ValueError(f"--out {out} is where a drawing goes; add --just_visualise, or leave it out (JSON goes to stdout)")
    if frames is not None and frames < 1:
        raise ValueError(f"a video needs at least one frame, got --frames {frames}")
    video = _video(input, frames) if input else None
    frames = frames or (num_frames(video) if video else None)
    if not frames:
        raise ValueError("--exp plan needs the length of the video: --frames T, or --input VIDEO")
    given = parse_known(known or "", frames).nonzero().flatten().tolist()
    if schedule:
        if scheme != "autoreg":  # which is the flag's default
            raise ValueError(f"--schedule {schedule} and --scheme {scheme} are two ways to cut a video; give one of them")
        if stride is not None:
            raise ValueError(f"--stride {stride} is for a scheme; a --schedule says itself what it makes, leave it out")
        windows = read_schedule(schedule, frames, given, window=window)
        title = Path(schedule).name
    else:
        window = 20 if window is None else window  # FDM's sizes
        stride = max(1, window // 2) if stride is None else stride
        if is_adaptive(scheme) and not video:
            raise ValueError(f"--scheme {scheme} chooses what to observe by what the frames show; give the video: --input PATH")
        distance = _distance(video, frames) if is_adaptive(scheme) else None
        windows = plan(scheme, frames, given, distance, window=window, stride=stride)
        title = f"{scheme}, window {window}, stride {stride}"
    if just_visualise:
        out = out or "plan.png"
        draw(windows, frames, given, out, title=f"{title}; frames {frames}, given {len(given)}, windows {len(windows)}")
        print(f"drawn: {out}", file=sys.stderr)
    print(json.dumps([{"observed": w.observed, "target": w.target} for w in windows]))


def _video(path: str, frames: int | None) -> str:
    """The one video at or below a path, which must be long enough."""
    found = find_videos(path)
    if len(found) > 1:
        raise ValueError(f"--input {path} holds {len(found)} videos, and a plan is for one; give one, like {found[0]}")
    video = str(found[0] if found else path)
    if frames and num_frames(video) < frames:
        raise ValueError(f"--input {video} has {num_frames(video)} frames, got --frames {frames}; ask for no more than it has")
    return video


def _distance(video: str, frames: int) -> Distance:
    """How unlike the frames of a real video are, by their pixels."""
    small = torch.cat([thumbnails(torch.from_numpy(read_video(video, start, min(start + CHUNK, frames))))
                       for start in range(0, frames, CHUNK)])
    return feature_distance(small.__getitem__)
