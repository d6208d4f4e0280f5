"""The command `evaluate`: metrics between two folders, or of a model that first makes the videos itself."""

from pathlib import Path
from typing import Any

import evals.run
from evals.protocol import METRICS
from evals.run import KNOWN_RULES, PROTOCOLS
from latent_diffusion.sample import run_folder, sample
from tools.registry import nearest


def run(*, real: str | None, fake: str | None, metrics: str, protocol: str, known_frames: str, batch_size: int | None,
        resolution: int | None, out: str | None, model: str | None, data: str | None, **sampling: Any) -> None:
    """Compare --real DIR with --fake DIR, or sample --model RUN on --data NAME and compare that with the truth."""
    for flag, value in (("batch_size", batch_size), ("resolution", resolution)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    if model:
        if real or fake:
            raise ValueError("--exp evaluate takes --real and --fake, or --model and --data, not both")
        if not data:
            raise ValueError("--exp evaluate --model RUN needs real videos to compare with: --data NAME")
        report, folder = _places(model, out)
        _check(report, metrics, protocol, known_frames)
        sample(model=model, data=data, resolution=None, batch_size=batch_size, out=str(folder), input=None, baseline=None,
               resize=True, npz=False, **sampling)
        real, fake, out = str(folder / "real"), str(folder / "samples"), str(report)
    evals.run.run(real=real, fake=fake, metrics=metrics, out=out, protocol=protocol, known_frames=known_frames,
                  batch_size=batch_size, resolution=resolution)


def _places(model: str, out: str | None) -> tuple[Path, Path]:
    """The report, and the folder of the videos that it is of."""
    if not out:
        folder = run_folder(model) / "evaluation"
        return folder / "evaluation.json", folder
    report = Path(out)
    return report, report.with_suffix("") if report.suffix == ".json" else report.with_name(f"{report.name}_videos")


def _check(report: Path, metrics: str, protocol: str, known_frames: str) -> None:
    """What the comparison would refuse is told before anything is sampled."""
    if report.is_dir():
        raise ValueError(f"--out {report} is a folder, and --exp evaluate writes a file; use --out {report / 'metrics.json'}")
    for name in filter(None, map(str.strip, metrics.split(","))):
        METRICS.get(name)
    for flag, value, valid in (("protocol", protocol, PROTOCOLS), ("known_frames", known_frames, KNOWN_RULES)):
        if value not in valid:
            raise ValueError(f"--{flag} {value} is unknown{nearest(value, valid)}; known: {', '.join(valid)}")
