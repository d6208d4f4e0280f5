"""LPIPS as a training loss: the distance of frames in VGG16 features (Zhang et al. 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import evals.lpips
from autoencoder.losses import Summed
from tools import weights

if TYPE_CHECKING:
    import lpips

VGG = weights.find("lpips-vgg")
SMALLEST = 16  # pixels that four halvings leave something of
ELSE = "or set loss.perceptual_weight=0 to train without it"


def find_vgg(path: str | Path | None = None) -> Path:
    """The VGG16 weights: `path` if given, else where named weights lie (tools.weights).

    Raises:
        ValueError: It is not there; says what to fetch and where to put it.
    """
    if path is None or path == "":
        if (found := weights.present("lpips-vgg")) is None:
            raise ValueError(f"the perceptual loss needs VGG16: {weights.missing('lpips-vgg')}, {ELSE}")
        return found
    if not Path(path).is_file():
        raise ValueError(f"the perceptual loss needs VGG16 weights, but {path} does not exist; "
                         f"{weights.remedy('lpips-vgg', Path(path))}, {ELSE}")
    return Path(path)


def load_lpips(path: str | Path | None = None, *, verify: bool = True) -> lpips.LPIPS:
    """LPIPS 0.1 on VGG16, frozen, from local files alone; lpips' own constructor would download.

    Args:
        path: VGG16 weights in torchvision's layout; looked up by `find_vgg` if not given.
        verify: Refuse a file whose SHA-256 is not the published one.

    Raises:
        ValueError: The file is missing, damaged, or not VGG16.
    """
    path = find_vgg(path)
    if verify:
        weights.check(path, VGG, f"{weights.remedy('lpips-vgg', path)}, {ELSE}")
    try:
        return evals.lpips.load_lpips("vgg", path)
    except ValueError as error:
        raise ValueError(f"{error}; {weights.remedy('lpips-vgg', path)}, {ELSE}") from error


class PerceptualLoss(nn.Module):
    """LPIPS between frames, with gradients to the reconstruction only; stays frozen and in evaluation mode.

    Args:
        net: As `load_lpips` returns it.
    """

    def __init__(self, net: lpips.LPIPS):
        super().__init__()
        self.net = net.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualLoss:
        return super().train(False)  # lpips' heads have dropout

    def features(self, frames: Tensor) -> list[Tensor]:  # b c h w -> five of b f h' w', of unit length over f
        layers = self.net.net(self.net.scaling_layer(frames.expand(-1, 3, -1, -1)))
        # lpips' own normalisation has no finite gradient where all features are 0.
        return [x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt() for x in layers]

    def forward(self, recon: Tensor, target: Tensor) -> Summed:
        """LPIPS of each pair of frames `b c h w` in [-1, 1], c = 3 or 1 (grey)."""
        if min(recon.shape[-2:]) < SMALLEST:
            raise ValueError(f"the perceptual loss needs frames of {SMALLEST} pixels or more, got "
                             f"{recon.shape[-2]}x{recon.shape[-1]}; set loss.perceptual_weight=0")
        with torch.no_grad():
            wanted = self.features(target)
        total = 0
        for head, got, want in zip(self.net.lins, self.features(recon), wanted):
            total = total + head((got - want).square()).float().mean((1, 2, 3))  # head: b f h w -> b 1 h w
        return Summed(total, 1)
