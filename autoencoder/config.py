"""The first stage's settings: what its run folder's config.yaml holds."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from autoencoder.discriminator import CriticConfig
from autoencoder.losses import LossConfig
from autoencoder.model import AutoencoderConfig
from tools.best import best_metric
from tools.boards import LogConfig
from tools.clips import DataConfig
from tools.dist import DistConfig
from tools.ema import EmaConfig
from tools.loop import LoopConfig
from tools.optim import OptimConfig


@dataclass(frozen=True)
class AutoencoderTrainConfig:
    """How the autoencoder is trained, beside its losses."""
    latent_noise: float = 0.0       # noise added to latents before decoding, in standard deviations of the latent
    held_frames: float = 0.0        # share of clips whose missing frames are filled from the others (see fill.py)
    flip: float = 0.0               # probability of a horizontal flip of a clip
    reverse: float = 0.0            # probability of playing a clip backward
    shift: int = 0                  # largest random translation of a clip, in pixels (edges are repeated)
    autocast: str = "none"          # none | bf16: precision of the forward pass
    grad_checkpoint: Any = "auto"   # recompute activations in the backward pass; auto: where they would not fit
    validation_clips: int = 32
    psnr_guard: float = 0.5         # dB that an adversarial run may lose before its best checkpoint is passed over
    seed: int = 42                  # all randomness of the run follows from it

    def __post_init__(self):
        if self.autocast not in ("none", "bf16"):
            raise ValueError(f"train.autocast={self.autocast} is not known; use none or bf16")
        for name in ("held_frames", "flip", "reverse"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"train.{name} is a probability in 0..1, got {getattr(self, name)}")
        if self.latent_noise < 0 or self.shift < 0:
            raise ValueError(f"train.latent_noise and train.shift must not be negative, got {self.latent_noise}, {self.shift}")
        if self.grad_checkpoint not in (True, False, "auto"):
            raise ValueError(f"train.grad_checkpoint={self.grad_checkpoint} is not known; use auto, true or false")
        if self.validation_clips < 1:
            raise ValueError(f"train.validation_clips must be at least 1, got {self.validation_clips}")


@dataclass(frozen=True)
class FirstStageConfig:
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    train: AutoencoderTrainConfig = field(default_factory=AutoencoderTrainConfig)
    dist: DistConfig = field(default_factory=DistConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self):
        self.best()  # refuses an unknown loop.best

    def best(self) -> tuple[str, str]:
        """The validation metric by which the best weights are kept, and whether "min" or "max" is better."""
        adversarial = {"sharpness_gap": "min"} if self.loss.adversarial_weight else {}
        return best_metric(self.loop, {**adversarial, "psnr": "max"})

    @staticmethod
    def settle(merged: DictConfig) -> DictConfig:
        """The clip's frames, size and channels are said once, under data:, and the model is built for them."""
        follow: dict[str, Any] = {"frames": "frames", "resolution": "resolution", "in_channels": "channels"}
        said, meant, default = OmegaConf.to_container(merged.model), OmegaConf.to_container(merged.data), AutoencoderConfig()
        for ours, theirs in follow.items():
            if said[ours] not in (meant[theirs], getattr(default, ours)):
                raise ValueError(f"model.{ours}={said[ours]} contradicts data.{theirs}={meant[theirs]}; "
                                 f"set data.{theirs} alone, the model follows it")
        return OmegaConf.merge(merged, {"model": {ours: meant[theirs] for ours, theirs in follow.items()}})
