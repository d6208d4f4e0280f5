"""The command `sample`: videos from a model or a baseline, with all that a comparison needs beside them."""

import json
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from autoencoder.border import border_jump
from latent_diffusion import baselines
from latent_diffusion.completion import Completion, Settings
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.samplers import SAMPLERS, evaluations
from latent_diffusion.task import known_frames
from tools import dist
from tools.clips import DataConfig, fit, open_source, read_windows, windows
from tools.log import write_text
from tools.writers import grid_frames, strip, write_gif, write_mp4, write_png

FOLDERS = ("samples", "real", "videos")
NUMBERED = re.compile(r"\d{5,}(_\d{2,})?\.(npy|mp4)")  # what is written into them


@dataclass(frozen=True)
class Window:
    """One stretch of a real video."""
    name: str        # of the video
    start: int
    frames: Tensor   # uint8 t h w c


class Truth(NamedTuple):
    """The real windows whose frames are given, and what a record says of them."""
    windows: list[Window]
    notes: list[str]
    stride: int       # between neighbouring frames of a window in the video
    files: set[Path]  # that they were read from


def sample(*, model: str | None, first_model: str | None, weights: str, task: str | None, baseline: str | None,
           num_videos: int | None, samples_per_video: int, frames: int | None, known: str | None, data: str | None,
           data_path: str | None, resolution: int | None, input: str | None, resize: bool, scheme: str, window: int | None,
           stride: int | None, overlap: int | None, sampler: str, steps: str | None, eta: float | None, guidance: float,
           starts: str | None, batch_size: int | None, seed: int, npz: bool, out: str | None, results: str, no_border: bool,
           overrides: list[str]) -> None:
    """Make videos and write DIR/samples, DIR/real, DIR/videos, grid.gif, grid.png and sample.json."""
    if bool(model) == bool(baseline):
        raise ValueError("--exp sample needs either --model RUN or --baseline " + "|".join(baselines.BASELINES))
    pipeline = VideoDiffusion.load(model, first_model=first_model, weights=weights) if model else None
    for flag, value in (("num_videos", num_videos), ("samples_per_video", samples_per_video), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    task = task or ("predict" if data or input else "generate")
    if baseline:
        baselines.BASELINES.get(baseline)
        if task != "generate" and not known:
            raise ValueError(f"--baseline {baseline} has no clip of its own, so it needs the given frames: --known SPEC, "
                             "like 0-15 of --frames 32")
    clip = pipeline.clip if pipeline else (frames or 16) // 2
    mask = known_frames(task, clip, frames, known)
    settings = {"sampler": sampler_options(sampler, eta), "steps": steps or "50", "guidance": guidance, "scheme": scheme,
                "window": window or 2, "stride": stride or 1, "overlap": overlap, "seed": seed, "border": not no_border}
    work = None
    if pipeline:  # what would fail after the first video fails before it
        work = Completion(pipeline.model, Settings(**settings), mask, ids=[])
    else:
        baselines.check(baseline, mask)
    calls = work.evaluations() if work else 0
    overrides = [*overrides, *([f"data.resolution={resolution}"] if resolution else [])]
    truth, notes, data_stride, files = _truth(task, mask, pipeline, data=data, data_path=data_path, input=input,
                                              resize=resize, starts=starts, num_videos=num_videos, seed=seed,
                                              overrides=overrides)
    folder = Path(out) if out else _default_folder(pipeline, model, task, settings, len(mask), baseline, Path(results))
    count = len(truth) or num_videos or 4
    batch_size = batch_size or 4
    if dist.is_main():
        _clear(folder, files)
    dist.barrier()  # before anything is made: what is new must not be taken for old
    seconds = _make(folder, truth, mask, pipeline, baseline, settings, count, samples_per_video, batch_size, calls)
    dist.barrier()
    if not dist.is_main():
        return
    _show(folder, truth, mask, count, samples_per_video, npz)
    jump = _border_jump(folder, truth, mask, samples_per_video)
    record = {"task": task, "frames": len(mask), "known_frames": mask.nonzero().flatten().tolist(),
              "baseline": baseline, "model": str(pipeline.model.file) if pipeline else None,
              "weights": pipeline.model.weights if pipeline else None, "step": pipeline.model.step if pipeline else None,
              "weights_hash": pipeline.model.weights_hash if pipeline else None,
              "first_model_hash": pipeline.model.codec.weights_hash if pipeline else None,
              **settings, "samples_per_video": samples_per_video, "batch_size": batch_size,
              "network_evaluations_per_video": _network_evaluations(work) if work else 0, "border_jump": jump,
              "data": data, "data_path": data_path, "input": input, "resize": resize, "starts": starts,
              "num_videos": num_videos, "data_stride": data_stride, "overrides": overrides,
              "seconds": round(seconds, 3), "torch": torch.__version__, "machine": platform.machine(),
              "videos": [{"video": i, "name": w.name, "start": w.start} for i, w in enumerate(truth)], "notes": notes}
    write_text(folder / "sample.json", json.dumps(record, indent=1) + "\n")
    print(f"{count} videos x {samples_per_video} of {len(mask)} frames in {seconds:.1f} s: {folder}")


def sampler_options(name: str, eta: float | None) -> dict[str, Any]:
    """A sampler and its options; --eta is refused where the sampler has none."""
    options = {"name": name} | ({} if eta is None else {"eta": eta})
    SAMPLERS.bind(options)
    return options


def run_folder(model: str | Path) -> Path:
    """The run that a path given as a model belongs to: itself, or where the model file or step checkpoint lies."""
    path = Path(model)
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _network_evaluations(work: Completion) -> int:
    """Forward passes for one video: guidance asks the network twice wherever there is something to look at."""
    guided = 2 if work.settings.guidance else 1
    return sum((guided if informed else 1) * evaluations(steps=len(work.levels[informed]) - 1, **work.settings.sampler)
               for _, informed in work.jobs)


def _clear(folder: Path, files: set[Path]) -> None:
    """Remove what an older run of the command left, so that its samples are not counted among the new ones."""
    old = [path for name in FOLDERS if (folder / name).is_dir() for path in (folder / name).iterdir()
           if NUMBERED.fullmatch(path.name) and path.is_file()]
    for path in old:
        if path.resolve() in files:
            raise ValueError(f"{path} is one of the real videos, and would be replaced by the results; give another --out")
    for path in [folder / "sample.json", *old]:
        path.unlink(missing_ok=True)


def _truth(task: str, mask: Tensor, pipeline: VideoDiffusion | None, *, data, data_path, input, resize, starts, num_videos,
           seed, overrides) -> Truth:
    """The real windows whose frames are given; for `generate` without data there are none."""
    if not data and not input:
        if bool(mask.any()):
            raise ValueError(f"--task {task} needs real frames: --data NAME --data_path DIR, or --input PATH")
        return Truth([], [], 1, set())
    if data and input:
        raise ValueError("--data and --input are two ways to name the videos; give one of them")
    cfg, sized = _data_config(data, data_path, input, overrides)
    source = open_source(cfg)
    begins = _starts(starts) if starts else ([0] if input else None)
    length = len(mask)
    if input and bool(mask.any()):
        length = int(mask.nonzero().max()) + 1  # what follows the given frames need not exist
        if all(source.num_frames(i) > (len(mask) - 1) * cfg.stride for i in range(len(source))):
            length = len(mask)
    chosen = windows(source, length, begins, num_videos, seed, stride=cfg.stride, on_error=cfg.on_error)
    if num_videos:
        chosen = chosen[:num_videos]
    size = cfg.size if sized else None
    if pipeline and size not in (None, pipeline.size):
        raise ValueError(f"data.resolution={cfg.resolution} is not the model's, which makes {pipeline.size[0]}x"
                         f"{pipeline.size[1]} (height x width); leave it out")
    channels = pipeline.model.codec.config.in_channels if pipeline else cfg.channels
    found = [_window(source.name(video), start, pixels, pipeline.size if pipeline else size, channels,
                     bool(data) or sized or resize)
             for video, start, pixels in read_windows(source, chosen, length, stride=cfg.stride, on_error=cfg.on_error)]
    _check_sizes(found)
    return Truth(found, list(source.notes), cfg.stride, {Path(path).resolve() for path in getattr(source, "paths", ())})


def _check_sizes(found: list[Window]) -> None:
    """A baseline takes videos as they are; they must be alike all the same."""
    first = found[0]
    for other in found:
        if other.frames.shape[1:3] != first.frames.shape[1:3]:
            sizes = [f"{window.name} is {window.frames.shape[1]}x{window.frames.shape[2]}" for window in (first, other)]
            raise ValueError(f"the videos differ in size (height x width): {', '.join(sizes)}; bring them to one with "
                             f"data.resolution={min(first.frames.shape[1:3])}")


def _starts(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ValueError(f"--starts {text} is no list of frames; write it like 0,8,16")
    return [int(part) for part in text.split(",")]


def _data_config(data: str | None, data_path: str | None, input: str | None,
                 overrides: list[str]) -> tuple[DataConfig, bool]:
    """The data settings of the line, and whether they name a resolution; what is no key of data: goes to the source."""
    given = _data_settings(overrides)
    keys = ("path", "split", "fold", "resolution", "channels", "stride", "on_error")
    fields = {key: given.pop(key) for key in keys if key in given}
    source = ("VIDEOS", input, "all") if input else (data, data_path or "", "test")
    named = dict(zip(("name", "path", "split"), source))
    return DataConfig(**(named | fields), options=given), "resolution" in fields


def _data_settings(overrides: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in overrides:
        key, _, value = item.partition("=")
        if not key.startswith("data.") or not value:
            raise ValueError(f'--exp sample takes flags and data.* settings, got "{item}"')
        try:
            options[key.removeprefix("data.").removeprefix("options.")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{key} has the value {value}, which is no YAML; write a number, a word or [a, b]") from None
    return options


def _window(name: str, start: int, frames: np.ndarray, size: tuple[int, int] | None, channels: int, resize: bool) -> Window:
    if size and frames.shape[1:3] != size and not resize:
        raise ValueError(f"video {name} is {frames.shape[1]}x{frames.shape[2]}, the model makes "
                         f"{size[0]}x{size[1]} (height x width); add --resize to scale and crop it")
    return Window(name, start, torch.from_numpy(fit(frames, size or frames.shape[1:3], channels)))


def _make(folder: Path, truth: list[Window], mask: Tensor, pipeline: VideoDiffusion | None, baseline: str | None,
          settings: dict[str, Any], count: int, samples: int, batch_size: int, calls: int) -> float:
    """Make this process's share of the samples, and write each as soon as it is there.

    Args:
        calls: evaluations of the guided network for one sample, in which progress is shown; 0 for a baseline.

    Returns:
        Seconds.
    """
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    jobs = [(video, number) for video in range(count) for number in range(samples)][dist.rank()::dist.world()]
    begun = time.monotonic()
    with tqdm(total=len(jobs) * (calls or 1), unit="evaluation" if calls else "video", desc="sampling", delay=1, miniters=0,
              dynamic_ncols=True, disable=not dist.is_main()) as bar:
        for first in range(0, len(jobs), batch_size):
            part = jobs[first:first + batch_size]
            given = _given([video for video, _ in part], truth, mask, pipeline)
            if baseline:
                results = baselines.complete(baseline, given, mask)
            else:
                results = pipeline.complete(given, mask, ids=part, progress=bar.update, **settings)
            for (video, number), result in zip(part, results):
                np.save(folder / "samples" / f"{video:05d}_{number:02d}.npy", result.numpy())
                write_mp4(folder / "videos" / f"{video:05d}_{number:02d}.mp4", result.numpy())
            bar.set_postfix_str(f"{first + len(part)} of {len(jobs)} videos", refresh=False)
            bar.update(0 if calls else len(part))
    return time.monotonic() - begun


def _given(videos: list[int], truth: list[Window], mask: Tensor, pipeline: VideoDiffusion | None) -> Tensor:
    """The frames that are looked at, b t h w c; unknown ones are blank, so that nothing can leak."""
    if not truth:
        return torch.zeros(len(videos), len(mask), *pipeline.size, pipeline.model.codec.config.in_channels, dtype=torch.uint8)
    rows = []
    for video in videos:
        frames = truth[video].frames
        row = torch.zeros(len(mask), *frames.shape[1:], dtype=torch.uint8)
        row[:len(frames)] = frames
        row[~mask] = 0
        rows.append(row)
    return torch.stack(rows)


def _show(folder: Path, truth: list[Window], mask: Tensor, count: int, samples: int, npz: bool) -> None:
    """Write the truth, and what one looks at first: a strip of frames, the truth above the sample, and a moving grid."""
    def made(video: int, number: int = 0) -> np.ndarray:
        return np.load(folder / "samples" / f"{video:05d}_{number:02d}.npy")

    whole = bool(truth) and all(len(window.frames) == len(mask) for window in truth)
    if whole:
        for video, real in enumerate(truth):
            np.save(folder / "real" / f"{video:05d}.npy", real.frames.numpy())
    if npz:
        np.savez(folder / "samples.npz", np.stack([made(video, n) for video in range(count) for n in range(samples)]))
    write_gif(folder / "grid.gif", grid_frames([made(video) for video in range(min(count, 16))]))
    rows = []
    for video in range(min(count, 6)):
        rows += [truth[video].frames.numpy(), made(video)] if whole else [made(video)]
    write_png(folder / "grid.png", strip(rows, every=max(1, len(mask) // 16), known=mask.tolist()))


def _border_jump(folder: Path, truth: list[Window], mask: Tensor, samples: int) -> dict[str, float] | None:
    """Mean change in grey levels from a given to a made frame beside it, and the same of the true videos."""
    if not bool(mask.any()) or bool(mask.all()) or any(len(window.frames) < len(mask) for window in truth):
        return None
    known = mask[None]
    made = [float(border_jump(torch.from_numpy(np.load(folder / "samples" / f"{video:05d}_{n:02d}.npy"))[None], known))
            for video in range(len(truth)) for n in range(samples)]
    real = [float(border_jump(window.frames[None], known)) for window in truth]
    return {"made": round(float(np.mean(made)), 3), "true": round(float(np.mean(real)), 3)}


def _default_folder(pipeline: VideoDiffusion | None, model: str | None, task: str, settings: dict[str, Any], frames: int,
                    baseline: str | None, results: Path) -> Path:
    name = f"{task}_{settings['scheme']}_{settings['window']}_{settings['stride']}_{frames}"
    if pipeline is None:
        return results / "baselines" / f"{baseline}_{task}_{frames}"
    return run_folder(model) / "samples" / f"{pipeline.model.weights}-{pipeline.model.step}" / name
