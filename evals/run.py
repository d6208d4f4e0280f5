"""Compare two sets of videos and write one JSON that says how the numbers came about (`--exp evaluate`)."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evals.fvd import FrechetVideoDistance
from evals.i3d import LEAST_FRAMES
from evals.pairs import Entry, Pairing, VideoSet, is_reconstruction, open_set, pair_videos
from evals.passes import Side, Work, compare_pairs, compare_sets, plan_sets
from evals.protocol import FrameMetric
from evals.protocols import PAIRS, SETS, Rules, load_rules
from evals.provenance import describe, otherwise_sampled
from evals.request import check_out, is_of_sets, make_metrics, names_of, settle
from evals.seeds import combine
from tools import dist
from tools.files import write_text


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
        made = make_metrics(names, rules, options, i3d)
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
    check_out(out)
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
        spread = "" if value["ci95"] is None else f" +- {_digits(value['ci95'])}"
        best = value.get("best_of_k")
        more = f", best of {best['k']}: {_digits(best['mean'])}" if best and result["protocol"]["samples"] == "mean" else ""
        if paths := value.get("trajectories"):
            more += f", of one sample each: {_digits(paths['mean'])} over {paths['k']}"
        print(f"{name:{width}} {_digits(value['mean'])}{spread}  (n = {value['n']}{more})")
    print(f"wrote {out}")


def _digits(value: float) -> str:
    """Four places, and of small numbers, as errors are, four digits."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.1 else f"{value:.4g}"


def write_report(path: str | os.PathLike, result: dict) -> None:
    """Write the result as JSON, whole or not at all."""
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


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
    warnings += otherwise_sampled(rules, made.settings) + said + work.looks.warnings(told=said)
    dropped = [*told.pop("dropped", []), *work.dropped]
    if dropped:
        warnings.append(f"{len(dropped)} videos are left out: {'; '.join(dropped[:3])}{'; ...' if len(dropped) > 3 else ''}")
    counts = (len({r for r, _ in pairing.pairs}), len(pairing.pairs)) if pairs else (told.get("n_real", 0), told["n_fake"])
    return {"metrics": named, "protocol": describe(rules, pairing, true, made, work, told, resize_from, bool(pairs)),
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


def _some(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in entries[:2]) + (", ..." if len(entries) > 2 else "")
