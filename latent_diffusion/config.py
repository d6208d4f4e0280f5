"""The second stage's settings: what its run folder's config.yaml holds."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from latent_diffusion.condition import CONDITIONS
from latent_diffusion.masks import samplers_of
from latent_diffusion.process import ProcessConfig
from latent_diffusion.schedule import ScheduleConfig
from latent_diffusion.unet import UNetConfig
from tools.best import PANEL, best_metric
from tools.boards import LogConfig
from tools.clips import DataConfig
from tools.dist import DistConfig
from tools.ema import EmaConfig
from tools.loop import LoopConfig
from tools.optim import OptimConfig


@dataclass(frozen=True)
class HistoryNoiseConfig:
    """Noise in what is observed (see Condition.noised), of which the network is told; needs condition.history=true."""
    sigma: float = 0.0              # the largest; each place of a noisy sample gets its own, uniform from 0
    rate: float = 0.5               # share of samples that are noisy; the others are clean

    def __post_init__(self):
        if not 0 <= self.sigma <= 1 or not 0 < self.rate <= 1:
            raise ValueError(f"train.history_noise needs sigma in 0..1 and rate in 0..1 but not 0, got {self.sigma} and "
                             f"{self.rate}; sigma=0 is none")


@dataclass(frozen=True)
class DiffusionTrainConfig:
    """How the diffusion model is trained, beside its process."""
    flip: float = 0.0               # probability of a horizontal flip of a window
    shift: int = 0                  # largest random translation of a window, in pixels
    history_noise: HistoryNoiseConfig = field(default_factory=HistoryNoiseConfig)
    autocast: str = "none"          # none | bf16: precision of the forward pass
    validation_clips: int = 32
    sample_steps: int = 20          # of the samples that loop.sample_every writes, and of the panel's
    panel_clips: int = 0            # held-out windows whose second half is predicted each loop.sample_every, to measure it
    panel_fvd: bool = False         # also an FVD of so few videos, which is noise; I3D's weights are needed
    seed: int = 42                  # all randomness of the run follows from it

    def __post_init__(self):
        if self.autocast not in ("none", "bf16"):
            raise ValueError(f"train.autocast={self.autocast} is not known; use none or bf16")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"train.flip is a probability in 0..1, got {self.flip}")
        if self.shift < 0:
            raise ValueError(f"train.shift must not be negative, got {self.shift}")
        if self.validation_clips < 1 or self.sample_steps < 1:
            raise ValueError(f"train.validation_clips and train.sample_steps must be at least 1, "
                             f"got {self.validation_clips} and {self.sample_steps}")
        if not 0 <= self.panel_clips <= self.validation_clips:
            raise ValueError("train.panel_clips are of the train.validation_clips, 0 (no panel) to "
                             f"{self.validation_clips}, got {self.panel_clips}")
        if self.panel_fvd and self.panel_clips < 2:
            raise ValueError(f"train.panel_fvd=true needs train.panel_clips of at least 2, got {self.panel_clips}")


@dataclass(frozen=True)
class DiffusionStageConfig:
    unet: UNetConfig = field(default_factory=UNetConfig)
    condition: dict[str, Any] = field(default_factory=lambda: {"name": "concat"})
    mask: dict[str, Any] = field(default_factory=lambda: {"name": "pvdm"})  # which frames are known while training
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    train: DiffusionTrainConfig = field(default_factory=DiffusionTrainConfig)
    dist: DistConfig = field(default_factory=DistConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self):
        self.process.check(self.schedule)
        if self.condition.get("residual") and self.process.parametrisation != "x0":
            raise ValueError(f"condition.residual needs process.parametrisation=x0, got {self.process.parametrisation}")
        if bool(self.condition.get("history")) != (self.train.history_noise.sigma > 0):
            raise ValueError(f"condition.history={bool(self.condition.get('history'))} and train.history_noise.sigma="
                             f"{self.train.history_noise.sigma} contradict each other: set both, or neither")
        CONDITIONS.bind(self.condition)
        for mask in samplers_of(self.mask):
            if mask["name"] == "fdm" and "max_frames" in mask and self.condition.get("spacing") == "gaps":
                raise ValueError("mask=fdm observes whole clips where condition.spacing=gaps, so mask.max_frames="
                                 f"{mask['max_frames']} is not read; leave it out, condition.slots is the room of a window")
        if self.train.panel_clips and not self.loop.sample_every:
            raise ValueError(f"train.panel_clips={self.train.panel_clips} are measured every loop.sample_every updates, got "
                             "loop.sample_every=0 (never); set it above 0, or train.panel_clips=0")
        if self.best()[0].startswith(PANEL) and not self.train.panel_clips:
            raise ValueError(f"loop.best={self.loop.best} needs train.panel_clips above 0, got 0")

    def best(self) -> tuple[str, str]:
        """The metric by which the best weights are kept, and whether "min" or "max" is better."""
        return best_metric(self.loop, {"loss": "min", "panel/psnr_pooled": "max", "panel/ssim": "max"})

    @staticmethod
    def settle(merged: DictConfig) -> DictConfig:
        """Nothing follows from anything else here; sizes come with the autoencoder."""
        return merged
