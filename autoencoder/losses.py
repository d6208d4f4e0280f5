"""Losses of the first stage: reconstruction, and an adversarial game that is kept from diverging.

Every loss is a `Summed`: totals per sample and the number of elements that each holds. Dividing the grand
total by the global element count, and never averaging averages, makes the gradient the same for every way of
cutting a batch into micro-batches and processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

PIXEL_LOSSES = ("l1", "l2", "charbonnier", "log_l2")
LOG_FLOOR = 1e-5  # squared error, in units of [-1, 1], below which a frame is as good as exact (56 dB)
WEIGHT_MODES = ("ramp", "adaptive")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the first stage's losses; the defaults are PVDM's released recipe without its critics."""
    pixel: str = "l1"                  # l1 | l2 | charbonnier | log_l2 (squared error in decibels, up to a factor)
    pixel_weight: float = 4.0
    perceptual_weight: float = 4.0     # LPIPS (VGG16); 0 needs no weights file
    perceptual_frames: int = 1         # random frames of each clip that LPIPS sees
    adversarial_weight: float = 0.0    # 0 = no critics; 1 is PVDM's
    feature_weight: float = 4.0        # feature matching, within the adversarial part
    critic_warmup: int = 1000          # updates of the critics alone, the autoencoder frozen
    ramp: int = 1000                   # updates over which the adversarial part then grows to full weight
    weight_mode: str = "adaptive"      # adaptive: also balance its gradient with the reconstruction's (VQGAN)
    adaptive_max: float = 10.0         # upper limit of that balance
    lecam: float = 0.001               # LeCAM regularisation of the critics; 0 = off
    r1: float = 0.0                    # gradient penalty on real videos; 0 = off
    r1_every: int = 16                 # updates between penalties, each of which counts for all of them
    critic_lr: float = 1e-4
    critic_clip_norm: float | None = 1.0  # None = do not clip

    def __post_init__(self):
        if self.pixel not in PIXEL_LOSSES:
            raise ValueError(f"loss.pixel={self.pixel!r} is unknown; use one of {', '.join(PIXEL_LOSSES)}")
        if self.weight_mode not in WEIGHT_MODES:
            raise ValueError(f"loss.weight_mode={self.weight_mode!r} is unknown; "
                             f"use one of {', '.join(WEIGHT_MODES)}")
        for name in ("pixel_weight", "perceptual_weight", "adversarial_weight", "feature_weight",
                     "critic_warmup", "ramp", "lecam", "r1"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"loss.{name} must be zero or positive, got {getattr(self, name)}")
        for name in ("perceptual_frames", "r1_every", "critic_lr", "adaptive_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"loss.{name} must be positive, got {getattr(self, name)}")
        if self.critic_clip_norm is not None and not self.critic_clip_norm > 0:
            raise ValueError(f"loss.critic_clip_norm must be positive or null, got {self.critic_clip_norm}")
        if not self.pixel_weight and not self.perceptual_weight:
            raise ValueError("loss.pixel_weight and loss.perceptual_weight are both 0, so nothing would be "
                             "reconstructed; set one of them above 0")


class Summed(NamedTuple):
    """A loss before it is averaged."""
    total: Tensor  # b
    count: int     # elements per sample

    def mean(self, samples: int | None = None) -> Tensor:
        """Share of this micro-batch in the mean over `samples` (the global batch; by default this one)."""
        return self.total.sum() / (self.count * (samples or len(self.total)))


def summed(errors: Tensor) -> Summed:
    """Elementwise errors `b ...` to totals per sample, in float32 whatever the autocast."""
    return Summed(errors.flatten(1).float().sum(1), errors[0].numel())


def pixel_error(recon: Tensor, target: Tensor, *, kind: str = "l1", eps: float = 1e-3) -> Summed:
    """Reconstruction error of `b c t h w` clips; charbonnier is L1, rounded off below `eps`.

    The elements of log_l2 are frames: the logarithm of each frame's mean squared error, whose mean is PSNR as
    people report it (times -ln(10) / 10, but for a constant).
    """
    assert recon.shape == target.shape, (recon.shape, target.shape)
    diff = recon.float() - target.float()
    if kind == "l1":
        return summed(diff.abs())
    if kind == "l2":
        return summed(diff.square())
    if kind == "log_l2":  # each frame counts by its PSNR: easy frames do not fade from the loss as they are learned
        return summed((diff.square().mean((1, 3, 4)) + LOG_FLOOR).log())
    assert kind == "charbonnier", kind
    return summed((diff.square() + eps**2).sqrt() - eps)


def take_frames(clip: Tensor, pick: Tensor) -> Tensor:
    """The picked frames of each clip: `b c t h w` and int64 `b k` -> `(b k) c h w`."""
    batch = torch.arange(len(clip), device=clip.device)[:, None]
    frames = rearrange(clip, "b c t h w -> b t c h w")[batch, pick.to(clip.device)]  # b k c h w
    return rearrange(frames, "b k c h w -> (b k) c h w")


def ramp(step: int, start: int, length: int) -> float:
    """0 before `start`, then linear up to 1 at `start + length`; a function of the step alone."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / max(length, 1))


def critic_hinge(real: Tensor, fake: Tensor) -> Summed:
    """Hinge loss of a critic on its logits `b ...` for real and generated samples."""
    return summed(0.5 * (F.relu(1 - real) + F.relu(1 + fake)))


def generator_hinge(fake: Tensor) -> Summed:
    """The generator raises the critic's logits `b ...`, without a hinge."""
    return summed(-fake)


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Summed:
    """L1 between a critic's activations: mean within each layer, summed over layers; real is the target."""
    assert len(real) == len(fake)
    means = [(f.float() - r.detach().float()).abs().flatten(1).mean(1) for r, f in zip(real, fake)]
    return Summed(torch.stack(means).sum(0), 1)


def gradient_penalty(logits: Tensor, inputs: Tensor) -> Summed:
    """R1 (Mescheder et al. 2018, eq. 9) per patch: squared gradient of the summed logits over their number.

    For one logit this is |dD/dx|^2; dividing by the number of patches keeps it independent of the frame size.
    `inputs` must require a gradient before the critic sees it.
    """
    (grad,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return Summed(grad.flatten(1).float().square().sum(1), logits[0].numel())


class Lecam:
    """LeCAM (Tseng et al. 2021, eq. 5): keep a critic's logits near where they have been on the other side.

    `penalty` reads the averages; `update` moves them once per step, after all micro-batches, with the mean
    logits of the global batch, so that every process holds the same state. Before the first update the
    penalty is 0.
    """

    def __init__(self, decay: float = 0.99):
        self.decay = decay
        self.real: float | None = None  # running means of the logits
        self.fake: float | None = None

    def penalty(self, real: Tensor, fake: Tensor) -> Summed:
        if self.real is None:
            return summed(torch.zeros_like(real))
        return summed(F.relu(real - self.fake).square() + F.relu(self.real - fake).square())

    def update(self, real: float, fake: float) -> None:
        self.real = lerp(self.real, float(real), self.decay)
        self.fake = lerp(self.fake, float(fake), self.decay)

    def state_dict(self) -> dict:
        return {"real": self.real, "fake": self.fake}

    def load_state_dict(self, state: dict) -> None:
        self.real, self.fake = state["real"], state["fake"]


class AdaptiveWeight:
    """Weight that gives the adversarial gradient the size of the reconstruction's (Esser et al. 2021, eq. 7).

    The sizes are norms of gradients at the decoder's last layer, summed over micro-batches and processes
    before `update`, which takes effect from the next step: the value does not depend on how a batch is cut.
    It is smoothed over steps and starts at 0.
    """

    def __init__(self, limit: float, decay: float = 0.9):
        self.limit, self.decay = limit, decay
        self.value: float | None = None

    def __call__(self) -> float:
        return self.value or 0.0

    def update(self, rec_grad: Tensor, gan_grad: Tensor) -> None:
        self.value = lerp(self.value, adaptive_weight(rec_grad, gan_grad, limit=self.limit), self.decay)

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


def adaptive_weight(rec_grad: Tensor, gan_grad: Tensor, *, limit: float, eps: float = 1e-4) -> float:
    """|rec_grad| / |gan_grad|, at most `limit`; `eps` (VQGAN's) matters only where the critic is flat."""
    return min(float(rec_grad.float().norm() / (gan_grad.float().norm() + eps)), limit)


def layer_gradient(loss: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a loss at one parameter; the graph stays for the real backward pass."""
    return torch.autograd.grad(loss, weight, retain_graph=True)[0]


def lerp(old: float | None, new: float, decay: float) -> float:
    """Running mean whose first value is the first observation."""
    return new if old is None else decay * old + (1 - decay) * new
