"""The command `evaluate`: metrics between two folders, or of a model that first makes the videos itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import evals.run
from evals.protocols import Rules, load_rules, split_changes
from evals.request import check, check_out, settle
from evals.seeds import combine
from evals.selfcheck import run as check_metrics
from latent_diffusion.sample import run_folder, sample
from tools import dist

FOLDERS = ("real", "fake", "metrics", "protocol", "known_frames", "batch_size", "resolution", "out", "i3d", "frames", "seed",
           "samples_per_video", "results")  # flags that the comparison of two folders reads
SELFCHECK = ("selfcheck", "real", "i3d", "out", "results")
OF_SAMPLING = ("task", "num_videos", "samples_per_video", "sampler", "steps", "eta", "guidance", "scheme")  # a protocol may fix


def run(*, real: str | None, fake: str | None, metrics: str | None, protocol: str, known_frames: str | None,
        batch_size: int | None, resolution: int | None, out: str | None, model: str | None, data: str | None,
        i3d: str | None = None, selfcheck: bool = False, given: Sequence[str] = (), overrides: Sequence[str] = (),
        **sampling: Any) -> None:
    """Compare --real DIR with --fake DIR, or sample --model RUN on --data NAME and compare that with the truth.

    Args:
        given: the flags that the line says; of the others a protocol has its own.
        overrides: dotted keys: protocol.KEY, METRIC.OPTION, and those of `sample`.
        sampling: further flags of `sample`.
    """
    for flag, value in (("batch_size", batch_size), ("resolution", resolution)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    if selfcheck:
        if extra := [name for name in given if name not in SELFCHECK]:
            raise ValueError(f"--selfcheck reads --real, --i3d and --out, got --{extra[0]}; leave it out")
        if dist.is_main():
            check_metrics(real=real, i3d=i3d, out=out, device=dist.device())
        return
    flags = {**sampling, "known_frames": known_frames, "resolution": resolution, "model": model}
    rules, options, rest = resolve(protocol, {name: flags[name] for name in given if name in flags}, overrides)
    own = {"metrics": metrics if "metrics" in given else None, "i3d": i3d, "options": options}
    if model:
        if real or fake:
            raise ValueError("--exp evaluate takes --real and --fake, or --model and --data, not both")
        if not data:
            raise ValueError("--exp evaluate --model RUN needs real videos to compare with: --data NAME")
        flags = {**sampling, "model": model, "data": data, "overrides": rest, "batch_size": batch_size}
        _of_model(rules, own, out, flags, given)
        return
    if rest:
        raise ValueError(f"{rest[0]} is a setting of the sampling, and there is no --model; leave it out")
    if extra := [name for name in given if name not in FOLDERS]:
        raise ValueError(f"--{extra[0]} is for --exp evaluate --model RUN, which makes videos; leave it out, folders are "
                         "compared as they are (fewer videos: protocol.n_real=N protocol.n_fake=N)")
    _told_once(evals.run.run, real=real, fake=fake, out=out, protocol=rules, batch_size=batch_size, **own)


def resolve(protocol: str, said: Mapping[str, Any],
            overrides: Sequence[str]) -> tuple[Rules, dict[str, dict[str, Any]], list[str]]:
    """The protocol with what the line asks for in another way, options of metrics, and the dotted keys that are left.

    Args:
        said: the flags of the line.
    """
    changes, options, rest = split_changes(list(overrides))
    base, model = load_rules(protocol), said.get("model")
    asked = {key: said[key] for key in ("seed", "samples_per_video") if key in said}
    if "frames" in said and (base.frames is not None or not model):  # a model's videos are as long as asked for
        asked["frames"] = said["frames"]
    if model:
        asked |= {f"sampling.{key}": said[key] for key in OF_SAMPLING if key in said and key in base.sampling}
        split = [item.partition("=")[2] for item in rest if item.startswith("data.split=")]
        asked |= {"sampling.split": split[-1]} if split and "split" in base.sampling else {}
    rules = settle(base, known_frames=said.get("known_frames"), resolution=said.get("resolution"),
                   changes=asked | changes)
    return rules, options, rest


def plan(*, protocol: str, given: Sequence[str], overrides: Sequence[str], **flags: Any) -> dict[str, Any]:
    """What --dry-run prints."""
    rules, options, _ = resolve(protocol, {name: flags[name] for name in given if name in flags}, overrides)
    return {**rules.plain(), "options": options}


def _of_model(rules: Rules, own: dict[str, Any], out: str | None, flags: dict[str, Any], given: Sequence[str]) -> None:
    """Sample with each seed, compare each with its truth, and write one report."""
    report, folder = _places(flags["model"], out)
    check_out(report)
    check(own["metrics"], rules, own["options"], own["i3d"])
    fixed = {"frames": rules.span, "samples_per_video": rules.samples_per_video, **rules.sampling}
    split = fixed.pop("split", None)
    flags |= {key: value for key, value in fixed.items() if key not in given and value is not None}
    if split and not any(item.startswith("data.split=") for item in flags["overrides"]):
        flags["overrides"] = [*flags["overrides"], f"data.split={split}"]
    size = flags["batch_size"]
    seeds, results = [flags["seed"] + i for i in range(rules.seeds)], []
    for number, seed in enumerate(seeds):
        place = folder / f"seed-{seed}" if len(seeds) > 1 else folder
        sample(**{**flags, "seed": seed}, resolution=None, out=str(place), input=None, baseline=None, resize=True, npz=False)
        drawn = rules.changed({"seeds": 1, "seed": rules.seed + number})
        results.append(_told_once(evals.run.evaluate, place / "real", place / "samples", protocol=drawn, device=dist.device(),
                                  batch_size=8 if size is None else size, **own))
        if results[-1] is None:
            return
    if dist.is_main():
        evals.run.tell(combine(results, seeds), report)


def _told_once(compare: Callable, *words: Any, **options: Any) -> Any:
    """Let the main process alone tell what is wrong with the input, which all processes find."""
    try:
        return compare(*words, **options)
    except ValueError:
        if dist.is_main():
            raise
        return None


def _places(model: str, out: str | None) -> tuple[Path, Path]:
    """The report, and the folder of the videos that it is of."""
    if not out:
        folder = run_folder(model) / "evaluation"
        return folder / "evaluation.json", folder
    report = Path(out)
    return report, report.with_suffix("") if report.suffix == ".json" else report.with_name(f"{report.name}_videos")
