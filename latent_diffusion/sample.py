"""The command `sample`: videos from a model or a baseline, with all that a comparison needs beside them."""

import json
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latent_diffusion import baselines
from latent_diffusion.completion import Completion
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample_files import (
    FOLDERS,
    WINDOWS,
    clear,
    jumps,
    real_path,
    sample_path,
    show,
    write_real,
    write_samples,
)
from latent_diffusion.sample_options import schedule_name, split_overrides
from latent_diffusion.samplers import SAMPLERS
from latent_diffusion.task import known_frames
from latent_diffusion.truth import Truth, known_frames_of, open_truth
from tools import dist
from tools.log import write_text
from tools.writers import write_npz


def sample(*, model: str | None, first_model: str | None, weights: str, task: str | None, baseline: str | None,
           num_videos: int | None, samples_per_video: int, frames: int | None, known: str | None, data: str | None,
           data_path: str | None, resolution: int | None, input: str | None, resize: bool, scheme: str, window: int | None,
           stride: int | None, schedule: str | None, overlap: int | None, sampler: str | None, steps: str | None,
           eta: float | None, guidance: float, guide: str | None, content: str | None, starts: str | None, windows: str | None,
           batch_size: int | None, seed: int, npz: bool, out: str | None, results: str, no_border: bool,
           overrides: list[str]) -> None:
    """Make videos and write DIR/samples, DIR/real, DIR/videos, grid.gif, grid.png, windows.json and sample.json."""
    if bool(model) == bool(baseline):
        raise ValueError("--exp sample needs either --model RUN or --baseline " + "|".join(baselines.BASELINES))
    options, data_overrides = split_overrides(overrides)
    pipeline = VideoDiffusion.load(model, first_model=first_model, weights=weights) if model else None
    for flag, value in (("num_videos", num_videos), ("samples_per_video", samples_per_video), ("batch_size", batch_size),
                        ("resolution", resolution)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    task = task or ("predict" if data or input else "generate")
    if baseline:
        baselines.BASELINES.get(baseline)
        if task != "generate" and not known:
            raise ValueError(f"--baseline {baseline} has no clip of its own, so it needs the given frames: --known SPEC, "
                             "like 0-15 of --frames 32")
    mask = known_frames(task, pipeline.clip if pipeline else (frames or 16) // 2, frames, known)
    settings = {"sampler": sampler_options(sampler, eta), "steps": steps, "guidance": guidance,
                "scheme": scheme, "window": window, "stride": stride, "schedule": schedule, "overlap": overlap, "seed": seed,
                "border": not no_border, **options}
    weaker = VideoDiffusion.load(guide, first_model=first_model, weights=weights) if guide else None
    first = VideoDiffusion.load(content, first_model=first_model, weights=weights) if content else None
    checked = VideoDiffusion.settings(**settings, guide=weaker, content=first)
    work = None
    if pipeline:  # what would fail after the first video fails before it
        work = Completion(pipeline.model, checked, mask, ids=[])
        settings |= {"sampler": work.settings.sampler, "steps": work.settings.steps}
    else:
        baselines.check(baseline, mask)
    if schedule is None and not checked.one_frame:
        settings |= (work.settings if work else checked).sizes
    if resolution is not None:
        data_overrides.append(f"data.resolution={resolution}")
    truth = open_truth(task, mask, pipeline, data=data, data_path=data_path, input=input, resize=resize, starts=starts,
                       num_videos=num_videos, seed=seed, overrides=data_overrides, manifest=windows)
    folder = Path(out) if out else _default_folder(pipeline, model, task, settings, len(mask), baseline, Path(results))
    count = len(truth.windows) or num_videos or 4
    batch_size = 4 if batch_size is None else batch_size
    if dist.is_main():
        clear(folder, truth.files)
        if truth.windows:
            truth.manifest.write(folder / WINDOWS)
    dist.barrier()  # before anything is made: what is new must not be taken for old
    helpers = {"guide": weaker, "content": first}
    maker = Baseline(baseline, truth, mask) if baseline else Model(pipeline, truth, mask, settings | helpers, work)
    seconds = _make(folder, truth, mask, maker, count, samples_per_video, batch_size)
    dist.barrier()
    if not dist.is_main():
        return
    record = {"task": task, "frames": len(mask), "known_frames": mask.nonzero().flatten().tolist(), "baseline": baseline,
              **_identity(pipeline, weaker, first), **settings, "adaptive_distance": work.distance if work else None,
              "samples_per_video": samples_per_video, "batch_size": batch_size,
              "network_evaluations_per_video": work.network_evaluations() if work else 0,
              "border_jump": _finish(folder, truth, mask, count, samples_per_video, npz),
              "data": data, "data_path": data_path, "input": input, "resize": resize, "starts": starts, "windows": windows,
              "num_videos": num_videos, "data_stride": truth.stride, "overrides": overrides,
              "seconds": round(seconds, 3), "torch": torch.__version__, "machine": platform.machine(),
              "videos": [{"video": i, "name": w.name, "start": w.start} for i, w in enumerate(truth.windows)],
              "notes": truth.notes}
    write_text(folder / "sample.json", json.dumps(record, indent=1) + "\n")
    print(f"{count} videos x {samples_per_video} of {len(mask)} frames in {seconds:.1f} s: {folder}")


def sampler_options(name: str | None, eta: float | None) -> dict[str, Any] | None:
    """A sampler and its options, None = what suits the model; --eta is refused where the sampler has none, and means ddim
    where none is named."""
    if name is None and eta is None:
        return None
    options = {"name": name or "ddim"} | ({} if eta is None else {"eta": eta})
    SAMPLERS.bind(options)
    return options


def run_folder(model: str | Path) -> Path:
    """The run that a path given as a model belongs to: itself, or where the model file or step checkpoint lies."""
    path = Path(model)
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _identity(*pipelines: VideoDiffusion | None) -> dict[str, Any]:
    """Which weights made the videos: the model's, its guide's, and those of the model for the first clip."""
    own, guide, content = (pipeline.model if pipeline else None for pipeline in pipelines)
    return {"model": str(own.file) if own else None, "weights": own.weights if own else None, "step": own.step if own else None,
            "weights_hash": own.weights_hash if own else None, "first_model_hash": own.codec.weights_hash if own else None,
            "guide": str(guide.file) if guide else None, "guide_hash": guide.weights_hash if guide else None,
            "content": str(content.file) if content else None, "content_hash": content.weights_hash if content else None}


class Baseline:
    """Makes videos from the given frames alone."""
    calls = 0

    def __init__(self, name: str, truth: Truth, mask: Tensor):
        self.name, self.truth, self.mask = name, truth, mask

    def __call__(self, jobs: list[tuple[int, int]], progress) -> Iterable[Tensor]:
        rows = []
        for video, _ in jobs:
            given = torch.from_numpy(self.truth.read(video, self.mask))
            row = torch.zeros(len(self.mask), *given.shape[1:], dtype=torch.uint8)
            row[self.mask] = given
            rows.append(row)
        return [baselines.complete(self.name, torch.stack(rows), self.mask)]


class Model:
    """Makes videos with a model, whose calls for one sample are those in which progress is shown."""

    def __init__(self, pipeline: VideoDiffusion, truth: Truth, mask: Tensor, settings: dict[str, Any], work: Completion):
        self.pipeline, self.truth, self.mask, self.settings, self.calls = pipeline, truth, mask, settings, work.evaluations()

    def __call__(self, jobs: list[tuple[int, int]], progress) -> Iterable[Tensor]:
        shape = (*self.pipeline.size, self.pipeline.model.codec.config.in_channels)
        given = known_frames_of(self.truth, [video for video, _ in jobs], self.mask, shape)
        return self.pipeline.stream(given, len(self.mask), known=self.mask, ids=jobs, progress=progress, **self.settings)


def _make(folder: Path, truth: Truth, mask: Tensor, maker: Baseline | Model, count: int, samples: int,
          batch_size: int) -> float:
    """Make this process's share of the samples, each written as its frames come; return the seconds."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [(video, number) for video in range(count) for number in range(samples)][dist.rank()::dist.world()]
    begun = time.monotonic()
    with tqdm(total=len(jobs) * (maker.calls or 1), unit="evaluation" if maker.calls else "video", desc="sampling", delay=1,
              miniters=0, dynamic_ncols=True, disable=not dist.is_main()) as bar:
        for first in range(0, len(jobs), batch_size):
            part = jobs[first:first + batch_size]
            write_samples(folder, part, maker(part, bar.update), len(mask))
            if _whole(truth, mask):
                for video in (video for video, number in part if number == 0):
                    write_real(real_path(folder, video), truth.pieces(truth.windows[video]), len(mask))
            bar.set_postfix_str(f"{first + len(part)} of {len(jobs)} videos", refresh=False)
            bar.update(0 if maker.calls else len(part))
    return time.monotonic() - begun


def _whole(truth: Truth, mask: Tensor) -> bool:
    """Whether there is a true frame for every one that is made."""
    return bool(truth.windows) and truth.length == len(mask)


def _finish(folder: Path, truth: Truth, mask: Tensor, count: int, samples: int, npz: bool) -> dict[str, float] | None:
    """Write what needs all samples, and return the jump at the borders of given frames, where both are known."""
    if npz:
        files = [sample_path(folder, video, n) for video in range(count) for n in range(samples)]
        write_npz(folder / "samples.npz", map(np.load, files), len(files))
    whole = _whole(truth, mask)
    show(folder, count, mask, whole)
    return jumps(folder, count, samples, mask) if whole and bool(mask.any()) and not bool(mask.all()) else None


def _default_folder(pipeline: VideoDiffusion | None, model: str | None, task: str, settings: dict[str, Any], frames: int,
                    baseline: str | None, results: Path) -> Path:
    if pipeline is None:
        return results / "baselines" / f"{baseline}_{task}_{frames}"
    cut = f"{settings['scheme']}_{settings['window']}_{settings['stride']}"
    if settings["schedule"]:
        cut = schedule_name(settings["schedule"])
    elif settings.get("one_frame"):
        cut = "one-frame"
    return run_folder(model) / "samples" / f"{pipeline.model.weights}-{pipeline.model.step}" / f"{task}_{cut}_{frames}"
