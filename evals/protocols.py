"""Evaluation protocols by name: each a small file that fixes all that decides a number, and a label where one is changed.

What is asked for in another way than a protocol says renames the metrics it decides, `fvd` to `fvd[frames=32]`, so that no
such number is taken for the published one. What the videos themselves lack (fewer of them, fewer samples) is warned of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from evals.protocol import METRICS, SAMPLES
from tools.registry import nearest

FOLDER = Path(__file__).parent / "published"
KNOWN_RULES = ("exclude", "include")
I3D = {"videogpt": "i3d", "styleganv": "i3d-styleganv"}  # which file of the network -> name of the weights
PAIRS, SETS = "pairs", "sets"  # what metrics look at
DECIDES = {  # setting -> the metrics whose number it decides, and whose name tells where it is not as the protocol has it
    **dict.fromkeys(("frames", "stride", "resolution", "resize", "samples_per_video", "sampling"), "all"),
    **dict.fromkeys(("n_real", "n_fake", "selection", "start", "clips", "known_frames_sets"), SETS),
    **dict.fromkeys(("known_frames", "samples"), PAIRS), "ddof": "fvd",
    **dict.fromkeys(("i3d", "seed", "seeds", "on_error"), "none")}  # of I3D the name tells where it matters: see evals.run


@dataclass(frozen=True)
class Rules:
    """A protocol. Metrics of pairs look at the same frames of both sides, from the first one on; metrics of sets (FVD,
    inception score) at windows of the true videos, and at the begin of the made ones."""
    name: str
    about: str = ""
    metrics: tuple[str, ...] = ("psnr", "psnr_pooled", "ssim")  # where the line names none
    frames: int | None = None                        # of a video that count; none: all (sets: as many as the made ones have)
    stride: int = 1                                  # distance of those frames
    resolution: Any = None                           # pixels, or [height, width]; none: as the videos are
    resize: str = "crop"                             # to that: crop the centre | stretch
    n_real: int | None = None                        # true videos at the most
    n_fake: int | None = None                        # made videos at the most: the first ones
    selection: str = "random"                        # of the true ones: random | balanced (over folders) | sorted (by name)
    start: str = "first"                             # of the windows: first (frame 0) | centre | random
    clips: int = 1                                   # windows of a true video
    known_frames_sets: str = "include"               # given frames: include | exclude | both (reported side by side)
    ddof: int = 1                                    # covariances divide by n - ddof
    i3d: str = "videogpt"                            # which file of I3D; the label tells where it matters (see evals.run)
    known_frames: str = "exclude"                    # given frames: include | exclude
    samples: str = "mean"                            # of several samples of a video: the mean, or the best by each metric
    samples_per_video: int | None = None             # K; none: as many as there are
    sampling: dict[str, Any] = field(default_factory=dict)  # flags of --model: task, steps, eta, num_videos, ...
    seed: int = 0                                    # of what is drawn
    seeds: int = 1                                   # so many times with seed, seed + 1, ...: mean and interval over them
    on_error: str = "raise"                          # "skip" leaves out damaged videos, and lists them
    changes: tuple[str, ...] = ()                    # keys in which this differs from the protocol of its name

    def __post_init__(self):
        object.__setattr__(self, "metrics", tuple(self.metrics))
        for key, valid in (("selection", ("random", "balanced", "sorted")), ("start", ("first", "centre", "random")),
                           ("known_frames", KNOWN_RULES), ("known_frames_sets", (*KNOWN_RULES, "both")), ("i3d", tuple(I3D)),
                           ("samples", SAMPLES), ("resize", ("crop", "stretch")), ("on_error", ("raise", "skip")),
                           ("ddof", (0, 1))):
            value = getattr(self, key)
            if value not in valid or isinstance(value, bool):
                raise ValueError(f"protocol.{key} must be {' or '.join(map(str, valid))}, got {value}"
                                 f"{nearest(value, map(str, valid))}")
        for key, optional in (("frames", True), ("stride", False), ("n_real", True), ("n_fake", True), ("clips", False),
                              ("samples_per_video", True), ("seeds", False)):
            value = getattr(self, key)
            if not (optional and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"protocol.{key} must be at least 1, got {value}")
        if type(self.seed) is not int:
            raise ValueError(f"protocol.seed must be a whole number, got {self.seed}")

    @property
    def span(self) -> int | None:
        """Frames of a video that the counted ones reach over."""
        return None if self.frames is None else (self.frames - 1) * self.stride + 1

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to resize to."""
        given = self.resolution
        if given is None:
            return None
        size = (given, given) if isinstance(given, int) else tuple(given) if isinstance(given, (list, tuple)) else ()
        if len(size) != 2 or any(type(n) is not int or n < 1 for n in size):
            raise ValueError(f"--resolution must be a positive number or [height, width], got {given}")
        return size

    def changed(self, values: Mapping[str, Any]) -> Rules:
        """Return it with other values; keys are those of the fields, or sampling.KEY for a flag of the sampling."""
        valid = [key for key in DECIDES if key != "sampling"]
        new: dict[str, Any] = {}
        sampling = dict(self.sampling)
        for key, value in values.items():
            if key.startswith("sampling."):
                sampling[key.removeprefix("sampling.")] = value
            elif key in valid:
                new[key] = list(value) if isinstance(value, tuple) else value
            else:
                raise ValueError(f'unknown key "protocol.{key}"{nearest(key, valid)}; known: {", ".join(valid)}')
        made = replace(self, **new, sampling=sampling)
        return replace(made, changes=made._differences())

    def label(self, metric: str, kind: str, own: Mapping[str, Any] = {}) -> str:
        """Name a metric: plain, or with what is not as the protocol has it.

        Args:
            metric: its name.
            kind: what it is of: PAIRS or SETS.
            own: options of the metric that are given apart.
        """
        scopes = {"all", kind} | ({"fvd"} if metric.startswith("fvd") else set())
        parts = []
        for key in self.changes:
            name, _, option = key.partition(".")
            if DECIDES[name] not in scopes:
                continue
            value = self.sampling.get(option) if option else getattr(self, name)
            parts.append(f"{(option or name).removesuffix('_sets')}={_text(value)}")
        parts += [f"{key}={_text(value)}" for key, value in own.items()]
        return metric + (f"[{','.join(dict.fromkeys(parts))}]" if parts else "")

    def plain(self) -> dict[str, Any]:
        """Return it for the report."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _differences(self) -> tuple[str, ...]:
        if self.name == "custom":  # it fixes nothing
            return ()
        base, found = load_rules(self.name), []
        for key in DECIDES:
            old, new = getattr(base, key), getattr(self, key)
            if key == "sampling":
                found += [f"sampling.{k}" for k in (old | new) if str(old.get(k)) != str(new.get(k))]
            elif _headline(old) != _headline(new):
                found.append(key)
        return tuple(found)


def protocol_names() -> list[str]:
    """The names of all protocols."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_rules(name: str) -> Rules:
    """Read a protocol by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in protocol_names():
        raise ValueError(f'--protocol {name} is unknown{nearest(name, protocol_names())}; '
                         f"known: {', '.join(protocol_names())}")
    return Rules(name=name, **_read(name))


def split_changes(overrides: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]]:
    """Sort the dotted keys of a line: of the protocol (protocol.frames=32), options of metrics (lpips.size=128), others."""
    changes, options, others = {}, {}, []
    for item in overrides:
        key, mark, text = item.partition("=")
        owner, _, name = key.partition(".")
        if owner != "protocol" and owner not in METRICS:
            others.append(item)
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            mark = ""
        if not mark or not text or not name:
            raise ValueError(f'"{item}" cannot be read; write protocol.KEY=VALUE, or METRIC.OPTION=VALUE')
        if owner == "protocol":
            changes[name] = value
        else:
            METRICS.bind({"name": owner, name: value})  # refuses what is no option
            options.setdefault(owner, {})[name] = value
    return changes, options, others


def _read(name: str) -> dict[str, Any]:
    held = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    base = held.pop("extends", None)
    return (_read(base) if base else {}) | held


def _headline(value: Any) -> Any:
    return "include" if value == "both" else value  # of both, the plain name is with the given frames


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
