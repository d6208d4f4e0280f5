"""The command `carla`: where were the frames of a video taken, and do cars drive as fast as in the data (WD and PO)?"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from evals.carla_config import DrivesConfig
from evals.carla_data import read_coords
from evals.carla_map import draw_map
from evals.carla_metrics import SpeedConfig, Speeds, compare_speeds, point_speeds
from evals.carla_model import Locator, load_carla
from evals.pairs import Entry, open_set, pair_videos
from tools import dist
from tools.files import replacing, write_text
from tools.tree import describe, natural

FOLDER, RECORD, PICTURE = "coords", "coords.json", "coords.png"
SHOWN = 10  # videos in the picture


class Task(NamedTuple):
    """A video to be mapped."""
    name: str
    changed: int  # when its file was, in nanoseconds
    read: Callable[[], np.ndarray]


def map_videos(*, model: str | None, input: str | None, data: DrivesConfig | None, out: str | None, weights: str | None = None,
               batch_size: int | None = None, resize: bool = False) -> None:
    """Write DIR/coords/NAME.npy (float32 t 2, metres) of each video, DIR/coords.json on how, and DIR/coords.png to look at.

    What is there of the same weights and settings and is newer than its video is kept, so that a command that was stopped goes
    on. Several processes share the videos.

    Args:
        model: see carla_model.load_carla.
        input: what --exp sample wrote, whose samples/ are mapped, or any folder of videos.
        data: the drives of a dataset, in place of input.
        out: DIR; by default that of the samples.
        weights: of a run; see carla_model.load_carla.
        batch_size: frames at once (default 8).
        resize: bring frames of another size to that of the model.

    Raises:
        ValueError: anything about the input that a user can put right.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {batch_size}")
    if not model or (input is None) == (data is None):
        raise ValueError("--exp carla maps --input DIR, or --data CARLA, with --model RUN, or released (FDM's weights), got "
                         f"--model {model}, --input {input}, --data {data.name if data else None}")
    folder = _out(input, out)
    tasks, of = _inputs(input, folder) if input else _drives(data)
    locator = load_carla(model, weights)
    locator.net.to(dist.device())
    settings = {**locator.settings, "resize": bool(resize), **of}
    failed = None
    if dist.is_main():
        try:
            _claim(folder, settings)
        except ValueError as error:
            failed = str(error)
    if failed := dist.broadcast_object(failed):
        raise ValueError(failed)
    for task in tqdm(tasks[dist.rank()::dist.world()], unit="video", desc="carla", disable=not dist.is_main(), delay=1):
        _map(task, locator, folder / FOLDER / f"{task.name}.npy", batch_size or 8, resize)
    dist.barrier()
    if dist.is_main():
        shown = {task.name: _read(folder / FOLDER / f"{task.name}.npy") for task in tasks}
        draw_map(folder / PICTURE, torch.cat(list(shown.values())), dict(list(shown.items())[:SHOWN]))
        print(f"{len(tasks)} videos: {folder / FOLDER}")


def _map(task: Task, locator: Locator, file: Path, batch_size: int, resize: bool) -> None:
    if file.is_file() and file.stat().st_mtime_ns >= task.changed:
        return
    coords = locator.coordinates(task.read(), batch_size=batch_size, resize=resize, name=task.name)
    with replacing(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, coords)


def _read(file: Path) -> torch.Tensor:
    return torch.from_numpy(read_coords(file))


def _out(input: str | None, out: str | None) -> Path:
    if out:
        return Path(out)
    if input and (Path(input) / "samples").is_dir():
        return Path(input)
    raise ValueError("--exp carla needs --out DIR, where coords/ goes; only for a folder that has samples/ is it that folder")


def _inputs(path: str, out: Path) -> tuple[list[Task], dict]:
    """The videos of a folder, and what the coordinates' record should say of them."""
    inner = Path(path) / "samples"
    root = inner if inner.is_dir() else Path(path)
    _, entries, sampled = open_set(root, "input")
    names = [entry.joined for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"--input {path}: two videos are called {max(names, key=names.count)}; rename one of them")
    tasks = [Task(entry.joined, entry.path.stat().st_mtime_ns, entry.read) for entry in entries]
    return tasks, {"input": os.path.relpath(root, out),  # both may be moved together
                   **{key: sampled[key] for key in ("known_frames",) if key in sampled}}


def _drives(data: DrivesConfig) -> tuple[list[Task], dict]:
    """The same of a dataset."""
    source = data.open()
    times = [path.stat().st_mtime_ns for path in getattr(source, "paths", [])] or [0] * len(source)
    return [Task(source.name(i), times[i], partial(source.read, i)) for i in range(len(source))], \
        {"input": f"{data.name} {data.split}"}


def _claim(folder: Path, settings: dict) -> None:
    """Keep what decides the coordinates beside them; others' are not mixed with them."""
    record = folder / RECORD
    if any((folder / FOLDER).glob("*.npy")):
        before = _json(record) if record.is_file() else {}
        other = [key for key in {**settings, **before} if key != "model" and before.get(key) != settings.get(key)]
        if other:
            was = ", ".join(f"{key} {before.get(key)} (now {settings.get(key)})" for key in other[:3])
            raise ValueError(f"{folder / FOLDER} holds coordinates of another command: {was}; remove it, or give another --out")
    write_text(record, json.dumps(settings, indent=1) + "\n")


def compare(*, real: str | None, fake: str | None, speed: SpeedConfig, out: str | None = None,
            known_frames: str = "exclude") -> None:
    """Write WD and PO of two sets of coordinates as JSON, of the form that --exp evaluate writes, or print it.

    Args:
        real: a folder with coords/ in it, as map_videos makes, or of the files coords_7.npy of CARLA itself: the truth.
        fake: the same of the made videos.
        known_frames: "exclude" leaves out the speeds between two frames that were given to the model, as the sample.json
            beside the samples told; of true videos too where they pair by name.
    """
    for flag, value in (("real", real), ("fake", fake)):
        if not value:
            raise ValueError(f"--exp carla compares --real DIR with --fake DIR, folders with coordinates, got no --{flag}; "
                             "make them with --exp carla --model released --input SAMPLES")
    if known_frames not in ("exclude", "include"):
        raise ValueError(f"--known_frames must be exclude or include, got {known_frames}")
    if not dist.is_main():
        return
    true, made = read_set(real, "real"), read_set(fake, "fake")
    given = _given(made) if known_frames == "exclude" else []
    videos = _videos(true, made)
    sides = ([Speeds(name, _speeds(name, coords, speed, given if name in videos.values() else [], "real"))
              for name, coords in true.coords.items()],
             [Speeds(videos[name], _speeds(name, coords, speed, given, "fake")) for name, coords in made.coords.items()])
    result = {"metrics": compare_speeds(*sides, speed),
              "protocol": {"name": "carla", "real": str(true.folder), "fake": str(made.folder), **vars(speed),
                           "speeds": "every frame to that speed.gap later, all of a side pooled",
                           "known_frames": known_frames, "known": given, "settings": {"real": true.settings,
                                                                                      "fake": made.settings}},
              "n_real": len(true.coords), "n_fake": len(made.coords)}
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    if not out:
        print(text, end="")
        return
    write_text(out, text)
    for name, value in result["metrics"].items():
        spread = "" if value["ci95"] is None else f" +- {value['ci95']:.4f}"
        print(f"{name:12} {value['mean']:.4f}{spread}  (n = {value['n']})")
    print(f"wrote {out}")


class CoordsSet(NamedTuple):
    folder: Path
    coords: dict[str, np.ndarray]  # name -> t 2
    settings: dict                 # how they were made; {} of the truth


def read_set(path: str, side: str) -> CoordsSet:
    """Read all coordinates of a folder: of coords/ in it, of itself, or CARLA's own."""
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"--{side} {root}: no such folder; give one with coords/ in it, or CARLA's own with coords_7.npy, ...")
    inner = root / FOLDER
    folder = inner if inner.is_dir() else root
    own = folder == root and folder.name != FOLDER
    files = sorted(folder.glob("coords_*.npy" if own else "*.npy"), key=natural)
    if not files:
        raise ValueError(f"--{side} {root}: holds no coordinates ({describe(root)}); make them with --exp carla "
                         f"--model released --input {root}")
    record = folder.parent / RECORD
    settings = _json(record) if not own and record.is_file() else {}
    return CoordsSet(folder, {p.stem.replace("coords", "video", 1) if own else p.stem: read_coords(p) for p in files}, settings)


def _videos(true: CoordsSet, made: CoordsSet) -> dict[str, str]:
    """Name -> true video of every made one; where it pairs with none, what its samples have in common."""
    sides = ([Entry(name, side.folder / name) for name in side.coords] for side in (true, made))
    paired = {fake.name: real.name for real, fake in pair_videos(*sides).pairs}
    return {name: paired.get(name) or "made " + re.sub(r"(?<=\d)_\d{2,}$", "", name) for name in made.coords}


def _given(made: CoordsSet) -> list[int]:
    """The frames that were given to the model."""
    known = made.settings.get("known_frames") or []
    if not isinstance(known, list) or any(type(i) is not int or i < 0 for i in known):
        raise ValueError(f"{made.folder.parent / RECORD}: known_frames is {known}; wanted a list of frame numbers from 0")
    return sorted(known)


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged JSON ({error}); remove it with the coordinates, and map the videos again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, wanted an object of settings; map the videos again")
    return content


def _speeds(name: str, coords: np.ndarray, speed: SpeedConfig, given: list[int], side: str) -> np.ndarray:
    values = point_speeds(coords, speed, given)
    if not len(values):
        why = f"only {len(coords)} frames" if len(coords) <= speed.gap else "only speeds between frames that were given"
        raise ValueError(f"--{side}: {name} has {why}, and a point-speed needs frames {speed.gap} apart; give longer videos, a "
                         "smaller speed.gap, or --known_frames include")
    return values
