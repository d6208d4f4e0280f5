"""The command `demo`: the whole pipeline on generated videos, in minutes on a CPU, and a page to look at."""

import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autoencoder.codec import load_autoencoder
from autoencoder.config import FirstStageConfig
from autoencoder.reconstruct import through
from autoencoder.train import train_first_stage
from evals.protocol import METRICS
from latent_diffusion import baselines
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.train import train_diffusion
from tools import plot
from tools.clips import fit, open_source, windows
from tools.log import Run, write_text
from tools.page import Section, write_page
from tools.writers import grid_frames, strip, write_mp4, write_png

TEST_VIDEOS, STEPS = 24, 20  # windows that the numbers are of; sampler steps
OTHERS = {  # tasks beside prediction, and which of two clips' frames are given
    "predict_backward": lambda frame, clip: frame >= clip,
    "interpolate": lambda frame, clip: (frame < clip // 2) | (frame >= 2 * clip - clip // 2),
    "infill": lambda frame, clip: frame % 3 == 0}


def demo(first: FirstStageConfig, second: DiffusionStageConfig, folder: Path) -> None:
    """Train both stages on SHAPES, measure them on unseen videos and write index.html and metrics.json.

    Run again, it continues where it was stopped; when all is trained it only measures.
    """
    begun = time.monotonic()
    print(f"1/3 training the autoencoder ({first.loop.steps} steps)")
    autoencoder = _train(folder / "first_stage", lambda run: train_first_stage(first, run))
    codec = load_autoencoder(autoencoder)
    print(f"2/3 training the latent diffusion ({second.loop.steps} steps)")
    diffusion = _train(folder / "ddpm", lambda run: train_diffusion(second, run, load_autoencoder(autoencoder)))
    model = VideoDiffusion.load(diffusion)
    print("3/3 reconstructing, predicting and generating")
    truth, clip = test_videos(first, 2 * codec.frames), codec.frames
    recon = torch.stack([through(codec.to(model.model.codec.device), video, 4)[0] for video in truth])
    known = torch.arange(2 * clip) < clip
    made = model.complete(truth, known, steps=STEPS, seed=0, overlap=0)
    expected = model.complete(truth, known, steps=1, seed=0, overlap=0)  # the mean of what may follow
    repeated = baselines.complete("repeat_last", truth, known)
    others = {task: _other(model, truth, given(torch.arange(2 * clip), clip)) for task, given in OTHERS.items()}
    free = model.generate(8, frames=4 * clip, steps=STEPS, seed=0, overlap=0)
    metrics = {"reconstruction_psnr": pooled(truth, recon), "prediction_psnr": pooled(truth[:, clip:], made[:, clip:]),
               "mean_prediction_psnr": pooled(truth[:, clip:], expected[:, clip:]),
               "repeat_last_psnr": pooled(truth[:, clip:], repeated[:, clip:]),
               "others": {task: other.psnr for task, other in others.items()}, "videos": len(truth),
               "frames": {"known": clip, "predicted": clip, "generated": 4 * clip}, "sampler_steps": STEPS,
               "seconds": round(time.monotonic() - begun, 1)}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    shown = {"predict": Completed(known, made, {}), **others}
    write_demo_page(folder, metrics, truth, recon, shown, free)
    print(f"reconstruction {metrics['reconstruction_psnr']:.2f} dB, prediction {metrics['prediction_psnr']:.2f} dB, "
          f"repeating the last frame {metrics['repeat_last_psnr']:.2f} dB")
    print(f"open {(folder / 'index.html').resolve()}")


class Completed(NamedTuple):
    """One task's videos."""
    known: Tensor           # bool t
    made: Tensor            # uint8 b t h w c
    psnr: dict[str, float]  # of the made frames, of a sample and of baselines


def _other(model: VideoDiffusion, truth: Tensor, known: Tensor) -> Completed:
    made = model.complete(truth, known, steps=STEPS, seed=0, overlap=0)
    rows = {"sample": made, **{name: baselines.complete(name, truth, known) for name in ("nearest", "blend")}}
    return Completed(known, made, {name: pooled(truth[:, ~known], row[:, ~known]) for name, row in rows.items()})


def _train(folder: Path, train) -> Path:
    run = Run(folder)
    train(run)
    run.close()
    return folder


def test_videos(cfg: FirstStageConfig, frames: int) -> Tensor:
    """Unseen videos, uint8 b t h w c."""
    source = open_source(cfg.data, "test")
    chosen = windows(source, frames, count=TEST_VIDEOS, seed=0)
    return torch.from_numpy(np.stack([fit(source.read(i, start, start + frames), cfg.data.size) for i, start in chosen]))


test_videos.__test__ = False  # pytest: not a test


def pooled(real: Tensor, made: Tensor) -> float:
    """PSNR of the mean squared error over all frames and videos, dB."""
    metric = METRICS.get("psnr_pooled")()
    metric.update(real, made)
    return round(metric.compute()["mean"], 3)


def write_demo_page(folder: Path, metrics: dict, truth: Tensor, recon: Tensor, shown: dict[str, Completed],
                    free: Tensor) -> None:
    """Videos beside the truth, the loss curves and the numbers, in one file."""
    for name in ("first_stage", "ddpm"):
        plot.plot(folder / name / "metrics.jsonl", folder / f"{name}_curves.png")
    strips = []
    for name, made, known in [("reconstruction", recon, None), *((task, one.made, one.known) for task, one in shown.items())]:
        videos = [video.numpy() for pair in zip(truth[:4], made[:4]) for video in pair]
        write_mp4(folder / f"{name}.mp4", grid_frames(videos, columns=2), fps=5)
        known = None if known is None else known.tolist()
        write_png(folder / f"{name}.png", strip(videos, known=known))
        if known:
            strips.append(strip(videos[:4], known=known))
    write_png(folder / "tasks.png", np.concatenate(strips))
    write_mp4(folder / "generation.mp4", grid_frames([video.numpy() for video in free], columns=4), fps=5)
    better = metrics["prediction_psnr"] - metrics["repeat_last_psnr"]
    table = [{"what": "reconstruction of unseen videos", "PSNR (dB)": metrics["reconstruction_psnr"]},
             {"what": f"prediction of the next clip: one sample, {STEPS} steps", "PSNR (dB)": metrics["prediction_psnr"]},
             {"what": "the same in one step from pure noise: the mean of what may follow",
              "PSNR (dB)": metrics["mean_prediction_psnr"]},
             {"what": "repeating the last known frame", "PSNR (dB)": metrics["repeat_last_psnr"]}]
    tasks = [{"task": task, "one sample (dB)": other.psnr["sample"], "nearest given frame": other.psnr["nearest"],
              "linear blend": other.psnr["blend"]} for task, other in shown.items() if other.psnr]
    write_page(folder / "index.html", "Latent video diffusion, end to end", [
        Section("Numbers", f"Measured on {metrics['videos']} videos that no training step saw; prediction is {better:+.2f} dB "
                f"from repeating the last frame. Everything on this page took {metrics['seconds'] / 60:.1f} minutes.", table),
        Section("Prediction", "Left of each pair the truth, right the sample: the first half of the frames is given, the "
                "second half is made.", media=[("truth | sample", folder / "predict.mp4"),
                                               ("the same as a strip, given frames framed in red", folder / "predict.png")]),
        Section("Other tasks", "The same model makes what came before, what lies between, and any frames that are missing.",
                tasks, media=[item for task in OTHERS for item in ((f"{task}: truth | sample", folder / f"{task}.mp4"),
                                                                  ("as a strip", folder / f"{task}.png"))]),
        Section("Generation", "Made from noise alone, then continued clip by clip.",
                media=[("generated videos", folder / "generation.mp4")]),
        Section("Reconstruction", "What the autoencoder keeps of a clip.",
                media=[("truth | reconstruction", folder / "reconstruction.mp4"),
                       ("as a strip", folder / "reconstruction.png")]),
        Section("Training", "Loss and validation of both stages.",
                media=[("autoencoder", folder / "first_stage_curves.png"), ("diffusion", folder / "ddpm_curves.png")]),
    ])
