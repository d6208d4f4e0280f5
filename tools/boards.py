"""Where a run's numbers, pictures and histograms go besides metrics.jsonl: TensorBoard always, Weights & Biases if asked."""

from __future__ import annotations

import importlib.util
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tools.files import write_text
from tools.video import read_video
from tools.writers import write_gif

BINS = 64


@dataclass(frozen=True)
class LogConfig:
    wandb: bool = False             # also write to Weights & Biases (the package is needed; WANDB_MODE=offline is heeded)
    project: str | None = None      # of Weights & Biases; None = WANDB_PROJECT, or else its own default


class Board(Protocol):
    """One place that shows a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take in numbers after `step` updates."""

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Take in a distribution."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """Take in a png."""

    def video(self, step: int, name: str, path: Path) -> None:
        """Take in an mp4."""

    def flush(self) -> None:
        """Bring all to the disk."""

    def close(self) -> None:
        """No more will come."""


class TensorBoard:
    """TensorBoard events in the run folder.

    Args:
        purge: events of an earlier process at or after this step are hidden by TensorBoard.
    """

    def __init__(self, folder: Path, purge: int | None = None):
        from torch.utils.tensorboard import SummaryWriter  # its import takes a second
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._writer.add_histogram(name, values, step, bins="auto" if values.size < BINS else BINS)

    def picture(self, step: int, name: str, path: Path) -> None:
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def video(self, step: int, name: str, path: Path) -> None:
        """As a gif, which is what TensorBoard plays; its own add_video needs moviepy for that."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        frames = read_video(path)
        with tempfile.TemporaryDirectory() as folder:
            gif = Path(folder) / "video.gif"
            write_gif(gif, frames)
            image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3,
                                  encoded_image_string=gif.read_bytes())
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, whose name is kept in the folder, so that a continued training continues it.

    Its own step only goes forward, which a run that continues from an older checkpoint does not: `step` is a number like
    the others, and the axis of them all.
    """

    def __init__(self, folder: Path, cfg: LogConfig, config: Mapping[str, Any]):
        check_boards(cfg)
        import wandb
        self._wandb, name = wandb, folder / "wandb_id.txt"
        if not name.exists():
            write_text(name, secrets.token_hex(4) + "\n")
        try:
            self._run = wandb.init(project=cfg.project, name=folder.name, id=name.read_text().strip(), resume="allow",
                                   dir=str(folder), config=dict(config))
        except wandb.errors.Error as error:
            raise ValueError(f"log.wandb=true: {' '.join(str(error).split())}; log in with `wandb login`, or set "
                             "WANDB_MODE=offline") from None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Histogram(np_histogram=np.histogram(values, BINS))})

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({"step": step, name: self._wandb.Image(str(path))})

    def video(self, step: int, name: str, path: Path) -> None:
        self._run.log({"step": step, name: self._wandb.Video(str(path), format="mp4")})

    def flush(self) -> None:
        """Nothing to do: another process writes."""

    def close(self) -> None:
        self._run.finish()


def check_boards(cfg: LogConfig) -> None:
    """Refuse before anything is trained what could not be written."""
    if cfg.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("log.wandb=true needs the package wandb, which is not installed; pip install wandb, or leave "
                         "log.wandb out (TensorBoard's events are written anyway)")
