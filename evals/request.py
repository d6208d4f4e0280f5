"""What a line of `--exp evaluate` asks for: the protocol with its changes, and the metrics with their options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.protocol import METRICS
from evals.protocols import I3D, KNOWN_RULES, Rules, load_rules
from tools.registry import nearest
from tools.weights import weights_path


def settle(protocol: str | Rules, *, known_frames: str | None = None, resolution: int | Sequence[int] | None = None,
           changes: Mapping[str, Any] = {}) -> Rules:
    """The protocol of a name with what is asked for in another way."""
    asked: dict[str, Any] = {}
    if known_frames is not None:
        _choice("known_frames", known_frames, KNOWN_RULES)
        asked |= {"known_frames": known_frames, "known_frames_sets": known_frames}
    if resolution is not None:
        asked["resolution"] = resolution
    base = protocol if isinstance(protocol, Rules) else load_rules(protocol)
    rules = base.changed({**asked, **changes})
    _ = rules.size  # refuses nonsense before anything is read
    return rules


def names_of(metrics: Sequence[str] | str | None, rules: Rules) -> list[str]:
    """The metrics that are asked for, or those of the protocol."""
    given = rules.metrics if metrics is None else metrics.split(",") if isinstance(metrics, str) else metrics
    names = list(dict.fromkeys(name.strip() for name in given if name.strip()))
    if not names:
        raise ValueError(f"--metrics names no metric; choose from {', '.join(sorted(METRICS))}")
    for name in names:
        METRICS.get(name)
    return names


def check(metrics: Sequence[str] | str | None, rules: Rules, options: Mapping[str, Mapping[str, Any]],
          i3d: str | os.PathLike | None) -> None:
    """Refuse at once what a comparison would refuse after videos were made for it: names, options, absent weights."""
    make_metrics(names_of(metrics, rules), rules, options, i3d)


def check_out(out: str | os.PathLike | None) -> None:
    """Refuse at once a place where no report can be written."""
    if out and Path(out).is_dir():
        raise ValueError(f"--out {out} is a folder, and --exp evaluate writes a file; use --out {Path(out) / 'metrics.json'}")


def is_of_sets(metric: Any) -> bool:
    """Whether a metric compares sets, in which no made video belongs to a true one."""
    return hasattr(metric, "update_fake")


def _choice(flag: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f'--{flag} {value} is unknown{nearest(value, valid)}; known: {", ".join(valid)}')


def make_metrics(names: Sequence[str], rules: Rules, options: Mapping[str, Mapping[str, Any]],
                 i3d: str | os.PathLike | None) -> dict[str, Any]:
    """Each metric by its name, with the options of the protocol and of the line."""
    for name in options:
        if name not in names:
            raise ValueError(f"{name}.{next(iter(options[name]))} is of a metric that --metrics does not name; add it there")
    if i3d and "fvd" not in names:
        raise ValueError(f"--i3d {i3d} is for the metric fvd, which --metrics does not name; add it, or leave --i3d out")
    made = {}
    for name in names:
        own = {}
        if "ddof" in METRICS.options(name):
            own["ddof"] = rules.ddof
        if name == "fvd" and (i3d or rules.i3d != "videogpt"):
            own["path"] = i3d or weights_path(I3D[rules.i3d])
        made[name] = METRICS.bind({"name": name, **own, **options.get(name, {})})()
    return made
