"""What a report says of how its numbers came about: videos, rules, versions, and the revision of this program."""

from __future__ import annotations

import json
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import scipy
import torch

from evals.pairs import Pairing, VideoSet
from evals.passes import Work
from evals.protocols import Rules

PROGRAM = Path(__file__).resolve().parents[1]
WINDOWS = "windows.json"  # which --exp sample writes beside the samples


def otherwise_sampled(rules: Rules, settings: Mapping[str, Any]) -> list[str]:
    """Say where samples were not made as the protocol has it."""
    sampler = settings.get("sampler") if isinstance(settings.get("sampler"), dict) else {}
    made = {**settings, "sampler": sampler.get("name"), "eta": sampler.get("eta"), "num_videos": None}
    found = [f"{key} {made[key]} (protocol: {wanted})" for key, wanted in rules.sampling.items()
             if made.get(key) is not None and str(made[key]) != str(wanted)]
    return [f"the samples were not made as the protocol {rules.name} has it: {', '.join(found)}"] if found else []


def describe(rules: Rules, pairing: Pairing, true: VideoSet, made: VideoSet, work: Work, told: dict, resize_from: str | None,
              paired: bool) -> dict:
    """Say all that decides the numbers."""
    shapes = work.looks.shapes("fake") | work.looks.shapes("real")
    lengths = sorted({shape[0] for shape in shapes})
    counted = rules.known_frames if paired else rules.known_frames_sets
    left_out = set(work.known) if counted == "exclude" else set()
    resize = "none" if work.size is None else \
        {"crop": "shorter side, antialiased bilinear, centre crop", "stretch": "stretched, antialiased bilinear"}[rules.resize]
    return {
        "name": rules.name, "changes": list(rules.changes),
        "real": str(true.folder), "fake": str(made.folder),
        "frames": _one(lengths),
        "frames_compared": [i for i in range(0, (lengths or [0])[-1] * rules.stride, rules.stride) if i not in left_out],
        "resolution": _one(sorted([h, w] for h, w in {s[1:] for s in shapes})),
        "resize": resize + (f", to the size of {resize_from}" if resize_from else ""),
        "stride": rules.stride,
        "selection": "all pairs of equal names" + (", whole videos" if rules.frames is None else ", from their first frame on"),
        "known_frames": counted if "known_frames" in made.settings else "none stated",
        "known": work.known,
        "samples_per_video": _one(sorted(set(Counter(r for r, _ in pairing.pairs).values()))) if pairing.pairs else None,
        "samples": rules.samples,
        "ci95": "half width, Student t over real videos",
        "sets": {**told, "selection": rules.selection, "start": rules.start, "clips": rules.clips,
                 "known_frames": rules.known_frames_sets} if told else None,
        "rules": rules.plain(),
        "sample": made.settings,
        "windows": windows_of(made.folder),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "scipy": scipy.__version__, "av": av.__version__, "triplane-video": _version(),
                     "revision": revision(),
                     "device": torch.cuda.get_device_name(work.device) if torch.device(work.device).type == "cuda" else "cpu"},
    }


def windows_of(folder: Path) -> dict[str, Any] | None:
    """The windows of the true videos that the samples are of, where the file of them lies in the folder or beside it."""
    home = folder if folder.is_dir() else folder.parent
    for path in (home / WINDOWS, home.parent / WINDOWS):
        if path.is_file():
            try:
                return json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path}: damaged JSON ({error}); sample again, or remove it") from None
    return None


def revision(folder: Path = PROGRAM) -> str | None:
    """The commit that this program was checked out at, "-changed" where files differ from it; None where it is no checkout."""
    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=False)

    try:
        top = git("rev-parse", "--show-toplevel", "HEAD")
        if top.returncode or Path((lines := top.stdout.splitlines())[0]).resolve() != folder.resolve():
            return None  # it lies inside a checkout of something else
        return lines[1] + ("-changed" if git("diff", "--quiet", "HEAD", "--").returncode else "")
    except (OSError, subprocess.TimeoutExpired):  # there is no git
        return None


def _version() -> str:
    try:
        return metadata.version("triplane-video")
    except metadata.PackageNotFoundError:  # run from its folder without being installed
        return "not installed"


def _one(values: Iterable):
    values = list(values)
    return values[0] if len(values) == 1 else values
