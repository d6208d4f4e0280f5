"""The command `evaluate`: metrics between two folders, or of a model that first makes the videos itself."""

from pathlib import Path
from typing import Any

import evals.run
from evals.protocol import METRICS
from latent_diffusion.sample import run_folder, sample


def run(*, real: str | None, fake: str | None, metrics: str, protocol: str, known_frames: str, batch_size: int | None,
        resolution: int | None, out: str | None, model: str | None, data: str | None, **sampling: Any) -> None:
    """Compare --real DIR with --fake DIR, or sample --model RUN on --data NAME and compare that with the truth."""
    if model:
        if real or fake:
            raise ValueError("--exp evaluate takes --real and --fake, or --model and --data, not both")
        if not data:
            raise ValueError("--exp evaluate --model RUN needs real videos to compare with: --data NAME")
        folder = Path(out).with_suffix("") if out else run_folder(model) / "evaluation"
        for name in metrics.split(","):  # a misspelled one is told before anything is sampled
            METRICS.get(name.strip())
        sample(model=model, data=data, resolution=None, batch_size=batch_size, out=str(folder), input=None, baseline=None,
               resize=True, npz=False, **sampling)
        real, fake = str(folder / "real"), str(folder / "samples")
        out = out or str(folder / "evaluation.json")
    evals.run.run(real=real, fake=fake, metrics=metrics, out=out, protocol=protocol, known_frames=known_frames,
                  batch_size=batch_size, resolution=resolution)
