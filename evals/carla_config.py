"""The settings of `--exp carla`: what its run folder's config.yaml holds."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from evals.carla_metrics import SpeedConfig
from evals.carla_model import ARCHITECTURES
from tools.best import best_metric
from tools.boards import LogConfig
from tools.clips import DataConfig, open_source
from tools.dist import DistConfig
from tools.loop import LoopConfig
from tools.optim import OptimConfig
from tools.registry import nearest
from tools.sources import VideoSource


@dataclass(frozen=True)
class CarlaModelConfig:
    arch: str = "resnet152"  # of both networks, as FDM's; resnet18 to resnet101, and small for a CPU

    def __post_init__(self):
        if self.arch not in ARCHITECTURES:
            raise ValueError(f'model.arch "{self.arch}" is unknown{nearest(self.arch, ARCHITECTURES)}; known: '
                             f"{', '.join(ARCHITECTURES)}")


@dataclass(frozen=True)
class DrivesConfig:
    """Which drives."""
    name: str = "CARLA"
    path: str = ""            # the dataset's folder or its parent; empty: $VIDEO_DATA, or else /data
    split: str = "test"       # train | test | all

    def __post_init__(self):
        self.clips()  # refuses what makes no sense

    def clips(self) -> DataConfig:
        """As the sources of videos know it."""
        return DataConfig(name=self.name, path=self.path, split=self.split)

    def open(self, split: str | None = None) -> VideoSource:
        """Open the drives of a side."""
        return open_source(self.clips(), split)


@dataclass(frozen=True)
class FramesConfig(DrivesConfig):
    """Frames for training, drawn from all drives of a side."""
    split: str = "train"
    resolution: Any = 128     # pixels, or [height, width]
    resize: str = "crop"      # crop the centre | pad with black bars | stretch
    workers: int = 2          # loading processes

    def clips(self) -> DataConfig:
        return DataConfig(name=self.name, path=self.path, split=self.split, resolution=self.resolution, frames=1,
                          resize=self.resize, workers=self.workers)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self.clips().size


@dataclass(frozen=True)
class CarlaTrainConfig:
    augment: bool = True          # blur, and change brightness and hue, as FDM does
    validation_frames: int = 512
    seed: int = 42                # all randomness of the run follows from it

    def __post_init__(self):
        if self.validation_frames < 1:
            raise ValueError(f"train.validation_frames must be at least 1, got {self.validation_frames}")


def _optim() -> OptimConfig:  # the two networks share nothing, so no norm over both
    return OptimConfig(lr=3e-4, warmup=200, schedule="cosine", clip_norm=None)


class Settled:
    """A configuration in which nothing follows from anything else."""

    @staticmethod
    def settle(merged: DictConfig) -> DictConfig:
        return merged


@dataclass(frozen=True)
class CarlaConfig(Settled):
    """Of training."""
    model: CarlaModelConfig = field(default_factory=CarlaModelConfig)
    data: FramesConfig = field(default_factory=FramesConfig)
    optim: OptimConfig = field(default_factory=_optim)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=32))
    train: CarlaTrainConfig = field(default_factory=CarlaTrainConfig)
    dist: DistConfig = field(default_factory=DistConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self):
        self.best()  # refuses an unknown loop.best

    def best(self) -> tuple[str, str]:
        """The validation metric by which the best weights are kept, and whether "min" or "max" is better."""
        return best_metric(self.loop, {"error": "min", "error_in_cell": "min", "accuracy": "max"})


@dataclass(frozen=True)
class MapConfig(Settled):
    """Of mapping a dataset to coordinates."""
    data: DrivesConfig = field(default_factory=DrivesConfig)


@dataclass(frozen=True)
class CompareConfig(Settled):
    """Of WD and PO."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
