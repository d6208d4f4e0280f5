"""Compare two sets of videos and write one JSON that says how the numbers came about (`--exp evaluate`)."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from tqdm import tqdm

from evals.pairs import Entry, Pairing, VideoSet, open_set, pair_videos
from evals.protocol import METRICS
from tools import dist
from tools.files import write_text
from tools.registry import nearest
from tools.video import resize_crop

PROTOCOLS = ("custom",)
KNOWN_RULES = ("exclude", "include")
BAR_DELAY = 1.0  # seconds: an error at once stays alone on its line


class Batch(NamedTuple):
    videos: list[str]  # name of the real video of each pair
    real: np.ndarray   # uint8 b t h w c
    fake: np.ndarray   # uint8 b t h w c


def evaluate(real: str | os.PathLike, fake: str | os.PathLike, *, metrics: Sequence[str] | str,
             known_frames: str | None = None, batch_size: int = 8, resolution: int | Sequence[int] | None = None,
             protocol: str = "custom", device: torch.device | str = "cpu") -> dict:
    """Compare made videos with true ones.

    Args:
        real: folder (or file) of the true videos; see evals.pairs.open_set for all that is read.
        fake: the made ones, paired by name; several samples of a video (00003_00, 00003_01, ...) each count.
        metrics: names in METRICS, as a list or with commas.
        known_frames: what becomes of the frames that were given to the model, as the sample.json beside the
            samples tells: "exclude" leaves them out of the paired metrics, "include" does not. None: exclude.
        batch_size: pairs compared at once; changes no number.
        resolution: resize both sides to this (int or [height, width]), shorter side then centre crop.
        protocol: name of the evaluation protocol.
        device: where the metrics are computed.

    Returns:
        {"metrics": {name: {"mean", "ci95", "n", "per_frame"}}, "protocol", "n_real", "n_fake", "unpaired"}.

    Raises:
        ValueError: anything about the input that a user can put right.
    """
    running = {name: METRICS.bind(name)() for name in _names(metrics)}
    rule = _choice("known_frames", known_frames or "exclude", KNOWN_RULES)
    _choice("protocol", protocol, PROTOCOLS)
    size = _size(resolution)
    if batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {batch_size}")
    true, made = open_set(real, "real"), open_set(fake, "fake")
    known = _known(made.settings, made.folder)
    pairing = _paired(true, made)
    shapes = set()
    with tqdm(total=len(pairing.pairs), desc="evaluate", unit="video", delay=BAR_DELAY, file=sys.stderr) as bar:
        for batch in _ahead(_batches(pairing.pairs, batch_size, size)):
            shapes.add(batch.real.shape[1:4])
            kept = _kept(batch.real.shape[1], known if rule == "exclude" else [], made.folder)
            pair = [torch.from_numpy(frames[:, kept]).to(device) for frames in (batch.real, batch.fake)]
            for metric in running.values():
                metric.update(*pair, videos=batch.videos)
            bar.update(len(batch.videos))
    results = {name: metric.compute() for name, metric in running.items()}
    for name, result in results.items():
        for words in result.get("warnings", ()):
            print(f"warning: {name}: {words}", file=sys.stderr)
    return {"metrics": results,
            "protocol": _protocol(protocol, pairing, true, made, shapes, size, rule, known),
            "n_real": len({r for r, _ in pairing.pairs}), "n_fake": len(pairing.pairs),
            "unpaired": pairing.unpaired}


def run(*, real: str | None, fake: str | None, metrics: str, out: str | None = None, protocol: str = "custom",
        known_frames: str | None = None, batch_size: int | None = None, resolution: int | None = None) -> None:
    """Run `--exp evaluate`: compare, write --out, and print a line a metric (the whole JSON without --out)."""
    for flag, value in (("real", real), ("fake", fake)):
        if not value:
            raise ValueError(f"--exp evaluate needs --{flag}: a folder of videos (or what --exp sample wrote)")
    if not dist.is_main():
        return
    batch_size = 8 if batch_size is None else batch_size
    result = evaluate(real, fake, metrics=metrics, known_frames=known_frames, batch_size=batch_size, resolution=resolution,
                      protocol=protocol, device=dist.device())
    if not out:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    write_report(out, result)
    for name, value in result["metrics"].items():
        spread = "" if value["ci95"] is None else f" +- {value['ci95']:.4f}"
        print(f"{name:12} {value['mean']:.4f}{spread}  (n = {value['n']})")
    print(f"wrote {out}")


def write_report(path: str | os.PathLike, result: dict) -> None:
    """Write the result as JSON, whole or not at all."""
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


def _names(metrics: Sequence[str] | str) -> list[str]:
    names = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise ValueError(f"--metrics names no metric; choose from {', '.join(sorted(METRICS))}")
    return names


def _choice(flag: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise ValueError(f'--{flag} "{value}" is unknown{nearest(value, valid)}; known: {", ".join(valid)}')
    return value


def _size(resolution: int | Sequence[int] | None) -> tuple[int, int] | None:
    if resolution is None:
        return None
    size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"--resolution must be a positive number or [height, width], got {resolution}")
    return size


def _known(settings: dict, folder: Path) -> list[int]:
    """Return the frames that were given, the same for all videos."""
    known = settings.get("known_frames") or []
    if not isinstance(known, list) or any(type(i) is not int or i < 0 for i in known):
        raise ValueError(f"sample.json of {folder}: known_frames is {known}; wanted a list of frame numbers from 0")
    return sorted(set(known))


def _kept(length: int, left_out: Sequence[int], folder: Path) -> list[int]:
    if left_out and left_out[-1] >= length:
        raise ValueError(f"sample.json of {folder} says that frame {left_out[-1]} was given, but its videos have "
                         f"{length} frames; keep samples and sample.json of one run together")
    kept = sorted(set(range(length)) - set(left_out))
    if not kept:
        raise ValueError(f"{folder}: all {length} frames were given to the model, so there is nothing to compare; "
                         f"use --known_frames include")
    return kept


def _paired(true: VideoSet, made: VideoSet) -> Pairing:
    pairing = pair_videos(true.entries, made.entries)
    if not pairing.pairs:
        raise ValueError(f"no name in {made.folder} ({_some(made.entries)}) pairs with one in {true.folder} "
                         f"({_some(true.entries)}); name samples as their video, or video_00, video_01, ...")
    for side, names in pairing.unpaired.items():
        if names:
            print(f"warning: {len(names)} {side} videos pair with nothing and are left out: "
                  f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}", file=sys.stderr)
    return pairing


def _some(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries[:2]) + (", ..." if len(entries) > 2 else "")


def _batches(pairs: Sequence[tuple[Entry, Entry]], batch_size: int, size: tuple[int, int] | None) -> Iterator[Batch]:
    """Read the pairs; videos of different sizes never share a batch."""
    rows: list[tuple[str, np.ndarray, np.ndarray]] = []
    for real, group in groupby(pairs, key=lambda pair: pair[0]):
        truth = _read(real, size)  # once for all of its samples
        for _, fake in group:
            guess = _read(fake, size)
            _check(real, truth, fake, guess)
            if rows and (len(rows) == batch_size or rows[0][1].shape != truth.shape):
                yield _stack(rows)
                rows = []
            rows.append((str(real), truth, guess))
    yield _stack(rows)


def _read(entry: Entry, size: tuple[int, int] | None) -> np.ndarray:  # uint8 t h w 3
    frames = entry.read()
    return frames if size is None else resize_crop(frames, size)


def _stack(rows: list[tuple[str, np.ndarray, np.ndarray]]) -> Batch:
    names, real, fake = zip(*rows)
    return Batch(list(names), np.stack(real), np.stack(fake))


def _check(real: Entry, truth: np.ndarray, fake: Entry, guess: np.ndarray) -> None:
    if truth.shape[1:3] != guess.shape[1:3]:
        (h, w), (y, x) = truth.shape[1:3], guess.shape[1:3]
        raise ValueError(f"{fake} is {x}x{y} but {real} is {w}x{h}; compare both at one size with --resolution {min(y, x)}")
    if len(truth) != len(guess):
        raise ValueError(f"{fake} has {len(guess)} frames but {real} has {len(truth)}; "
                         f"compare videos of one length (sample writes its truth, as long as the samples, to real/)")


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Read the next batch in a thread while this one is compared."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _protocol(name: str, pairing: Pairing, true: VideoSet, made: VideoSet, shapes: set, size: tuple[int, int] | None,
              rule: str, known: list[int]) -> dict:
    """Say all that decides the numbers."""
    frames = sorted({t for t, _, _ in shapes})
    left_out = set(known) if rule == "exclude" else set()
    return {
        "name": name,
        "real": str(true.folder), "fake": str(made.folder),
        "frames": _one(frames),
        "frames_compared": [i for i in range(frames[-1]) if i not in left_out],
        "resolution": _one(sorted([h, w] for h, w in {s[1:] for s in shapes})),
        "resize": "none" if size is None else "shorter side, antialiased bilinear, centre crop",
        "stride": 1,
        "selection": "all pairs of equal names, whole videos",
        "known_frames": rule if "known_frames" in made.settings else "none stated",
        "known": known,
        "samples_per_video": _one(sorted(set(Counter(r for r, _ in pairing.pairs).values()))),
        "samples": "mean",
        "ci95": "half width, Student t over real videos",
        "sample": made.settings,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "av": av.__version__},
    }


def _one(values: list):
    return values[0] if len(values) == 1 else values
