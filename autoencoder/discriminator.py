"""Patch critics of the adversarial stage: one looks at single frames, one at whole clips."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

NORMS = ("group", "none", "batch")


@dataclass(frozen=True)
class CriticConfig:
    """A stack of strided convolutions; the defaults are PVDM's sizes."""
    channels: int = 64       # width of the first layer; doubles per layer, up to eightfold
    layers: int = 3          # strided layers, each halves the frame
    kernel: int = 4
    norm: str = "group"      # "group" and "none" judge every sample alone; "batch" mixes the micro-batch
    spectral: bool = False   # spectral normalisation of every convolution

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"critic.norm={self.norm!r} is unknown; use one of {', '.join(NORMS)}")
        for name, least in (("channels", 1), ("layers", 1), ("kernel", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"critic.{name} must be at least {least}, got {getattr(self, name)}")


class Verdict(NamedTuple):
    logits: Tensor                # b 1 ..., one per patch; high means real
    features: tuple[Tensor, ...]  # activations of every layer but the last, for feature matching


def make_norm(kind: str, channels: int, dims: int) -> nn.Module:
    """Normalisation that needs no process group (SyncBatchNorm crashes on a single process)."""
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels) if dims == 2 else nn.BatchNorm3d(channels)
    groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class PatchCritic(nn.Module):
    """PatchGAN (Isola et al. 2017) over frames (`dims=2`) or clips (`dims=3`).

    Padding of half a kernel leaves at least one position on every axis, so frames of any size work. Along
    time, the kernel and stride of a layer are clipped to the frames that are left: for one-frame clips they
    are 1, and no weight sees only padding. A critic built for T frames accepts clips of any other length.

    Args:
        in_channels: Channels of the video (3, or 1 for grey).
        cfg: Sizes and normalisation.
        dims: 2 for frames `b c h w`, 3 for clips `b c t h w`.
        frames: Frames of a clip, to which temporal kernels are clipped; of no effect for `dims=2`.
    """

    def __init__(self, in_channels: int, cfg: CriticConfig, *, dims: int = 2, frames: int = 1):
        super().__init__()
        assert dims in (2, 3) and frames >= 1
        self.dims = dims
        widths = [in_channels, *(cfg.channels * min(2**i, 8) for i in range(cfg.layers + 1)), 1]
        self.layers = nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if i < cfg.layers else 1
            conv, frames = patch_conv(before, after, cfg.kernel, stride, dims=dims, frames=frames)
            layer = [spectral_norm(conv) if cfg.spectral else conv]
            if 0 < i <= cfg.layers:
                layer.append(make_norm(cfg.norm, after, dims))
            if i <= cfg.layers:
                layer.append(nn.LeakyReLU(0.2))
            self.layers.append(nn.Sequential(*layer))

    def forward(self, x: Tensor) -> Verdict:
        assert x.ndim == self.dims + 2, f"expected {self.dims + 2} axes, got shape {tuple(x.shape)}"
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return Verdict(x, tuple(features[:-1]))


def patch_conv(before: int, after: int, kernel: int, stride: int, *, dims: int, frames: int):
    """One convolution of a critic, and the number of frames that it leaves."""
    if dims == 2:
        return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2), frames
    span, pace = min(kernel, frames), stride if frames > 1 else 1
    conv = nn.Conv3d(before, after, (span, kernel, kernel), (pace, stride, stride),
                     padding=(span // 2, kernel // 2, kernel // 2))
    return conv, (frames + 2 * (span // 2) - span) // pace + 1


class Critics(nn.Module):
    """The critic of frames and the critic of clips, as one module with one forward.

    Real and generated samples go through separate calls or one concatenated batch alike; only `norm="batch"`
    tells the difference.
    """

    def __init__(self, in_channels: int, cfg: CriticConfig, *, frames: int):
        super().__init__()
        self.frame = PatchCritic(in_channels, cfg, dims=2)
        self.clip = PatchCritic(in_channels, cfg, dims=3, frames=frames)

    def forward(self, clip: Tensor, frame: Tensor) -> tuple[Verdict, Verdict]:
        """Judge `clip: b c t h w` and one `frame: b c h w` of each (see losses.take_frames)."""
        return self.frame(frame), self.clip(clip)
