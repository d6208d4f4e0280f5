"""What the paths given to `report` are: training runs, folders of made videos, evaluations, or folders of these."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from tools.plot import curves
from tools.tree import describe, find_videos, natural

DEPTH = 4  # folders below one that is given
_SNAPSHOT = re.compile(r"step-\d+\.(mp4|png)")
_VAGUE = {"metrics", "evaluate", "evaluation", "result", "results", "report"}  # file names that tell nothing alone
STAGES = {"unet": "Latent diffusion", "model": "Autoencoder"}  # by a section of the settings


@dataclass(frozen=True)
class Training:
    """A run folder.

    Attributes:
        settings: of its config.yaml, by dotted key.
        curves: metric -> "train" or "validate" -> (steps, values).
        snapshots: what it made last while training, mp4 and png.
    """

    path: Path
    stage: str
    settings: dict[str, Any]
    curves: dict[str, dict[str, tuple[list[int], list[float]]]]
    snapshots: list[Path]
    name: str = ""


@dataclass(frozen=True)
class Samples:
    """A folder of made videos: what `sample` or `reconstruct` wrote, or videos alone; its settings are its sample.json."""

    path: Path
    settings: dict[str, Any]
    name: str = ""


@dataclass(frozen=True)
class Result:
    """A JSON of `evaluate`: metric -> mean, ci95, n, per_frame, and all that decides them."""

    path: Path
    metrics: dict[str, dict[str, Any]]
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = ""


class Found(NamedTuple):
    trainings: list[Training]
    samples: list[Samples]
    results: list[Result]


def find(paths: Sequence[str | Path]) -> Found:
    """Look into every path.

    Raises:
        ValueError: a path is absent, or holds nothing that can be reported; a file of it is damaged.
    """
    kinds: dict[type, dict[Path, Any]] = {Training: {}, Samples: {}, Result: {}}
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"--runs {path}: no such file or folder; give run folders, folders that sample wrote, or the JSON "
                             "files of evaluate")
        found = [_result(path, given=True)] if path.is_file() else list(_inside(path)) or _videos(path)
        if not found:
            raise ValueError(f"--runs {path}: holds no run ({describe(path)}); give run folders, folders that sample wrote, or "
                             "the JSON files of evaluate")
        for item in found:
            kinds[type(item)].setdefault(item.path.resolve(), item)
    return Found(*(_named(list(items.values())) for items in kinds.values()))


def _inside(folder: Path, depth: int = 0) -> Iterable[Training | Samples | Result]:
    """All that a folder is or holds, by name."""
    kept = _own(folder)
    if kept:
        yield kept
    entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=natural)
    for file in entries:
        if file.suffix == ".json" and file.name != "sample.json" and (result := _result(file)):
            yield result
    if isinstance(kept, Samples) or depth == DEPTH:
        return
    for inner in entries:
        if inner.is_dir() and inner.name != "checkpoints":
            yield from _inside(inner, depth + 1)


def _own(folder: Path) -> Training | Samples | None:
    if (folder / "metrics.jsonl").is_file() or (folder / "config.yaml").is_file():
        return _training(folder)
    sampled = (folder / "sample.json").is_file() or ((folder / "samples").is_dir() and (folder / "real").is_dir())
    if sampled or ((folder / "recon").is_dir() and (folder / "videos").is_dir()):
        return Samples(folder, _json(folder / "sample.json") if (folder / "sample.json").is_file() else {})
    return None


def _videos(folder: Path) -> list[Samples]:
    """A folder of videos and nothing else."""
    return [Samples(folder, {})] if find_videos(folder) else []


def _training(folder: Path) -> Training:
    settings = _settings(folder / "config.yaml")
    stage = next((title for key, title in STAGES.items() if any(k.startswith(key + ".") for k in settings)), "Training")
    files = sorted(p for p in (folder / "samples").glob("step-*") if _SNAPSHOT.fullmatch(p.name))
    return Training(folder, stage, settings, curves(folder / "metrics.jsonl"), [p for p in files if p.stem == files[-1].stem])


def _settings(path: Path) -> dict[str, Any]:
    """Dotted keys and values; a list is one value."""
    if not path.is_file():
        return {}
    try:
        return dict(_flat(OmegaConf.to_container(OmegaConf.load(path))))
    except Exception as error:  # yaml raises a family of its own for each way to be broken
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); restore it, or leave the run out") from None


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged JSON ({error}); write it again, or leave it out") from None


def _result(path: Path, given: bool = False) -> Result | None:
    """Read an evaluation; None where a file is something else and was not given by name."""
    try:
        content = _json(path)
    except ValueError:
        if given:
            raise
        return None
    metrics = content.get("metrics") if isinstance(content, dict) else None
    if isinstance(metrics, dict) and metrics and all(isinstance(m, dict) and "mean" in m for m in metrics.values()):
        return Result(path, metrics, content.get("protocol") or {})
    if given:
        raise ValueError(f"--runs {path}: no JSON of evaluate (it has no metrics with a mean); give one, or a run folder")
    return None


def _named(items: list) -> list:
    """Name each by the end of its path, as much of it as tells it from the others."""
    whole = [item.path.absolute() for item in items]
    parts = [path.with_suffix("").parts if path.is_file() else path.parts for path in whole]
    lengths = [2 if tail[-1] in _VAGUE else 1 for tail in parts]

    def names() -> list[str]:
        return ["/".join(tail[-length:]) for tail, length in zip(parts, lengths)]

    while len(set(now := names())) < len(now) and any(n < len(tail) for n, tail in zip(lengths, parts)):
        lengths = [min(n + (now.count(name) > 1), len(tail)) for n, name, tail in zip(lengths, now, parts)]
    return [type(item)(**{**vars(item), "name": name}) for item, name in zip(items, names())]
