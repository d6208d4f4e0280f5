"""Compare two sets of videos and write one JSON that says how the numbers came about (`--exp evaluate`)."""

from __future__ import annotations

import copy
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import scipy
import torch

from evals.fvd import FrechetVideoDistance
from evals.i3d import LEAST_FRAMES
from evals.pairs import Entry, Pairing, VideoSet, is_reconstruction, open_set, pair_videos
from evals.passes import Side, Work, compare_pairs, compare_sets, plan_sets
from evals.protocol import METRICS, FrameMetric
from evals.protocols import I3D, KNOWN_RULES, PAIRS, SETS, Rules, load_rules
from evals.seeds import combine
from tools import dist
from tools.files import write_text
from tools.registry import nearest
from tools.weights import weights_path


def evaluate(real: str | os.PathLike, fake: str | os.PathLike, *, metrics: Sequence[str] | str | None = None,
             known_frames: str | None = None, batch_size: int = 8, resolution: int | Sequence[int] | None = None,
             protocol: str | Rules = "custom", device: torch.device | str = "cpu", i3d: str | os.PathLike | None = None,
             options: Mapping[str, Mapping[str, Any]] = {}) -> dict:
    """Compare made videos with true ones.

    Args:
        real: folder (or file) of the true videos; see evals.pairs.open_set for all that is read.
        fake: the made ones. Metrics of pairs take them by name, several samples of a video (00003_00, 00003_01, ...)
            too; metrics of sets (fvd, inception_score) need neither names nor equal numbers.
        metrics: names in METRICS, as a list or with commas; None: those of the protocol.
        known_frames: what becomes of the frames that were given to the model, as the sample.json beside the
            samples tells: "exclude" or "include". None: as the protocol has it (custom: left out of metrics of pairs,
            counted in those of sets).
        batch_size: videos looked at at once; changes no number.
        resolution: resize both sides to this (int or [height, width]), largest centred part of its aspect.
        protocol: name of the evaluation protocol (evals.protocols), or one that was changed.
        device: where the metrics are computed.
        i3d: weights for fvd; None: those of the protocol, by name.
        options: options of metrics, {"lpips": {"net": "vgg"}}.

    Returns:
        {"metrics": {name: {"mean", "ci95", "n", ...}}, "protocol", "n_real", "n_fake", "unpaired", "dropped", "warnings"};
        of several processes only the main one has it, the others an empty one.

    Raises:
        ValueError: anything about the input that a user can put right.
    """
    if batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {batch_size}")
    rules = settle(protocol, known_frames=known_frames, resolution=resolution)
    names = names_of(metrics, rules)
    results, seeds = [], range(rules.seed, rules.seed + rules.seeds)
    for seed in seeds:
        made = _make(names, rules, options, i3d)
        if results:  # nothing is drawn for metrics of pairs
            made = {name: metric for name, metric in made.items() if is_of_sets(metric)}
        if made:
            results.append(_evaluate(real, fake, made, replace(rules, seed=seed), batch_size, device, options))
    if not dist.is_main():
        return {}
    for words in (result := combine(results, seeds))["warnings"]:
        print(f"warning: {words}", file=sys.stderr)
    return result


def run(*, real: str | None, fake: str | None, metrics: str | None = None, out: str | None = None,
        protocol: str | Rules = "custom", known_frames: str | None = None, batch_size: int | None = None,
        resolution: int | None = None, i3d: str | None = None, options: Mapping[str, Mapping[str, Any]] = {}) -> None:
    """Run `--exp evaluate`: compare, write --out, and print a line a metric (the whole JSON without --out)."""
    for flag, value in (("real", real), ("fake", fake)):
        if not value:
            raise ValueError(f"--exp evaluate needs --{flag}: a folder of videos (or what --exp sample wrote)")
    batch_size = 8 if batch_size is None else batch_size
    result = evaluate(real, fake, metrics=metrics, known_frames=known_frames, batch_size=batch_size, resolution=resolution,
                      protocol=protocol, device=dist.device(), i3d=i3d, options=options)
    if dist.is_main():
        tell(result, out)


def tell(result: dict, out: str | os.PathLike | None) -> None:
    """Write the result to a file and print a line a metric, or print the whole."""
    if not out:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    write_report(out, result)
    width = max(12, *map(len, result["metrics"]))
    for name, value in result["metrics"].items():
        spread = "" if value["ci95"] is None else f" +- {value['ci95']:.4f}"
        best = value.get("best_of_k")
        more = f", best of {best['k']}: {best['mean']:.4f}" if best and result["protocol"]["samples"] == "mean" else ""
        if paths := value.get("trajectories"):
            more += f", of one sample each: {paths['mean']:.4f} over {paths['k']}"
        print(f"{name:{width}} {value['mean']:.4f}{spread}  (n = {value['n']}{more})")
    print(f"wrote {out}")


def write_report(path: str | os.PathLike, result: dict) -> None:
    """Write the result as JSON, whole or not at all."""
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


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
    _make(names_of(metrics, rules), rules, options, i3d)


def is_of_sets(metric: Any) -> bool:
    """Whether a metric compares sets, in which no made video belongs to a true one."""
    return hasattr(metric, "update_fake")


def _choice(flag: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f'--{flag} {value} is unknown{nearest(value, valid)}; known: {", ".join(valid)}')


def _make(names: Sequence[str], rules: Rules, options: Mapping[str, Mapping[str, Any]], i3d: str | os.PathLike | None) -> dict:
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


def _evaluate(real: str | os.PathLike, fake: str | os.PathLike, metrics: Mapping[str, Any], rules: Rules, batch_size: int,
              device: torch.device | str, options: Mapping[str, Mapping[str, Any]]) -> dict:
    """One seed."""
    true, made = open_set(real, "real"), open_set(fake, "fake")
    warnings: list[str] = []
    size, resize_from = rules.size, None
    if size is None and is_reconstruction(made.folder):
        size, resize_from = made.entries[0].read(0, 1).shape[1:3], "the reconstruction"
    work = Work(rules, size, device, batch_size, _known(made.settings, made.folder), made.folder)
    pairs = {name: metric for name, metric in metrics.items() if not is_of_sets(metric)}
    pairing = pair_videos(true.entries, made.entries)
    made, pairing = _first_samples(made, pairing, rules, warnings)
    if pairs:
        _check_pairs(pairing, true, made, warnings)
    sides = _sides(metrics, work, made, warnings)
    plan, failed = plan_sets(work, sides, true, made, pairing) if sides else None, None
    try:
        if pairs:
            compare_pairs(work, pairs, pairing.pairs)
        if plan:
            compare_sets(work, sides, plan)
    except ValueError as error:
        if dist.world() == 1:
            raise
        failed = error
    running = {**pairs, **{key: side.metric for key, side in sides.items()}}
    _gather(running, work, failed)
    if not dist.is_main():
        return {"metrics": {}, "warnings": []}
    told = plan.finish(sides, work) if plan else {}
    named, said = {}, []
    for key, metric in running.items():
        entry = metric.compute(samples=rules.samples) if isinstance(metric, FrameMetric) else metric.compute()
        if key in sides:
            entry["known_frames"] = sides[key].known if work.known else "none given"
        label = _label(rules, key, metric, sides.get(key), options, work)
        named[label] = entry
        said += [f"{label}: {words}" for words in entry.get("warnings", ())]
    warnings += _of_samples(rules, made.settings) + said + work.looks.warnings(told=said)
    dropped = [*told.pop("dropped", []), *work.dropped]
    if dropped:
        warnings.append(f"{len(dropped)} videos are left out: {'; '.join(dropped[:3])}{'; ...' if len(dropped) > 3 else ''}")
    counts = (len({r for r, _ in pairing.pairs}), len(pairing.pairs)) if pairs else (told.get("n_real", 0), told["n_fake"])
    return {"metrics": named, "protocol": _protocol(rules, pairing, true, made, work, told, resize_from, bool(pairs)),
            "n_real": counts[0], "n_fake": counts[1], "unpaired": pairing.unpaired if pairs else {"real": [], "fake": []},
            "dropped": dropped, "warnings": warnings}


def _sides(metrics: Mapping[str, Any], work: Work, made: VideoSet, warnings: list[str]) -> dict[str, Side]:
    """The metrics of sets; where given frames count both ways, fvd comes twice."""
    rules, sides = work.rules, {}
    for name, metric in metrics.items():
        if not is_of_sets(metric):
            continue
        sides[name] = Side(metric, "exclude" if rules.known_frames_sets == "exclude" else "include")
        if rules.known_frames_sets != "both" or name != "fvd" or not work.known:
            continue
        span = rules.span or made.entries[0].num_frames()
        left = len(set(range(0, span, rules.stride)) - set(work.known))
        if left < LEAST_FRAMES:
            warnings.append(f"fvd without the given frames is left out: {left} frames remain, and I3D looks at "
                            f"{LEAST_FRAMES} at the least")
        else:
            sides["fvd without given frames"] = Side(FrechetVideoDistance(metric.net, ddof=metric.ddof), "exclude", twin=True)
    return sides


def _label(rules: Rules, key: str, metric: Any, side: Side | None, options: Mapping[str, Mapping[str, Any]], work: Work) -> str:
    """The name under which a number is reported."""
    name = key.partition(" ")[0]
    own = {option: value for option, value in options.get(name, {}).items() if option != "path"}  # told by its hash
    shapes = work.looks.shapes("real") | work.looks.shapes("fake")
    if name == "fvd" and rules.name != "custom" and any(h != w for _, h, w in shapes):
        # of square frames both files of I3D see the same pixels
        found = "styleganv" if "TorchScript" in metric.net.settings["network"] else "videogpt"
        own |= {} if found == load_rules(rules.name).i3d else {"i3d": found}
    return rules.label(name, SETS if side else PAIRS, own | ({"known_frames": side.known} if side and side.twin else {}))


def _gather(metrics: Mapping[str, Any], work: Work, failed: ValueError | None) -> None:
    """Bring what all processes saw to the main one, or the first error."""
    if dist.world() == 1:
        return
    bare = []
    for metric in metrics.values():  # networks stay where they are
        twin = copy.copy(metric)
        for name in ("net", "model"):
            twin.__dict__.pop(name, None)
        bare.append(twin)
    others = dist.all_gather_object((str(failed) if failed else None, bare, work.looks, work.dropped))
    if errors := [error for error, *_ in others if error]:
        raise ValueError(errors[0])
    if dist.is_main():
        for _, twins, looks, dropped in others[1:]:
            for metric, twin in zip(metrics.values(), twins, strict=True):
                metric.merge(twin)
            work.looks.merge(looks)
            work.dropped += dropped


def _known(settings: dict, folder: Path) -> list[int]:
    """Return the frames that were given, the same for all videos."""
    known = settings.get("known_frames") or []
    if not isinstance(known, list) or any(type(i) is not int or i < 0 for i in known):
        raise ValueError(f"sample.json of {folder}: known_frames is {known}; wanted a list of frame numbers from 0")
    return sorted(set(known))


def _first_samples(made: VideoSet, pairing: Pairing, rules: Rules, warnings: list[str]) -> tuple[VideoSet, Pairing]:
    """Keep the first K samples of each video, where the protocol says how many count."""
    k, seen = rules.samples_per_video, Counter()
    if k is None:
        return made, pairing
    pairs, extra = [], set()
    for real, fake in pairing.pairs:
        seen[real] += 1
        if seen[real] <= k:
            pairs.append((real, fake))
        else:
            extra.add(fake)
    if short := sum(n < k for n in seen.values()):
        warnings.append(f"{short} of {len(seen)} videos have fewer than the {k} samples of the protocol {rules.name} "
                        f"(the least: {min(seen.values())}); the best of fewer is worse")
    return made._replace(entries=[e for e in made.entries if e not in extra]), pairing._replace(pairs=pairs)


def _check_pairs(pairing: Pairing, true: VideoSet, made: VideoSet, warnings: list[str]) -> None:
    if not pairing.pairs:
        raise ValueError(f"no name in {made.folder} ({_some(made.entries)}) pairs with one in {true.folder} "
                         f"({_some(true.entries)}); name samples as their video, or video_00, video_01, ...")
    for side, names in pairing.unpaired.items():
        if names:
            warnings.append(f"{len(names)} {side} videos pair with nothing and are left out: "
                            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")


def _of_samples(rules: Rules, settings: Mapping[str, Any]) -> list[str]:
    """Say where samples were not made as the protocol has it."""
    sampler = settings.get("sampler") if isinstance(settings.get("sampler"), dict) else {}
    made = {**settings, "sampler": sampler.get("name"), "eta": sampler.get("eta"), "num_videos": None}
    found = [f"{key} {made[key]} (protocol: {wanted})" for key, wanted in rules.sampling.items()
             if made.get(key) is not None and str(made[key]) != str(wanted)]
    return [f"the samples were not made as the protocol {rules.name} has it: {', '.join(found)}"] if found else []


def _some(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries[:2]) + (", ..." if len(entries) > 2 else "")


def _protocol(rules: Rules, pairing: Pairing, true: VideoSet, made: VideoSet, work: Work, told: dict, resize_from: str | None,
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
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "scipy": scipy.__version__, "av": av.__version__, "triplane-video": _version(),
                     "device": torch.cuda.get_device_name(work.device) if torch.device(work.device).type == "cuda" else "cpu"},
    }


def _version() -> str:
    try:
        return metadata.version("triplane-video")
    except metadata.PackageNotFoundError:  # run from its folder without being installed
        return "not installed"


def _one(values: Iterable):
    values = list(values)
    return values[0] if len(values) == 1 else values
