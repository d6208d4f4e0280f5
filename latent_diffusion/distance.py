"""How unlike finished clips are, for adaptive schemes: by LPIPS where its VGG16 is on this machine, else by pixels."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from autoencoder.perceptual import SMALLEST, PerceptualLoss, find_vgg, load_lpips
from latent_diffusion.adaptive import feature_distance, thumbnails
from latent_diffusion.schemes import Window, windows
from latent_diffusion.settings import Settings
from tools.video import to_clip

SIDE = 64  # pixels to which a frame is shrunk for LPIPS: what is kept of a clip then is a megabyte or two

Embed = Callable[[Tensor], Tensor]  # one frame, uint8 h w c -> features whose squared distance is the frames'


def choose_distance(size: tuple[int, int]) -> str:
    """What compares frames of a size here: lpips, or pixels."""
    try:
        find_vgg()
    except ValueError:
        return "pixels"
    return "lpips" if min(size) >= SMALLEST else "pixels"


def embedding(name: str, device: torch.device) -> Embed:
    """Features of a frame by name."""
    return partial(lpips_features, _network(device)) if name == "lpips" else lambda frame: thumbnails(frame[None])


@lru_cache(maxsize=1)
def _network(device: torch.device) -> PerceptualLoss:
    return PerceptualLoss(load_lpips()).to(device)


@torch.no_grad()
def lpips_features(net: PerceptualLoss, frame: Tensor) -> Tensor:
    """Unit VGG features, each by the root of its weight over the layer's pixels, so that LPIPS is their squared distance."""
    picture = to_clip(frame[None, None].to(next(net.parameters()).device))[:, :, 0]  # 1 c h w
    scale = min(1.0, SIDE / min(picture.shape[-2:]))
    if scale < 1:
        picture = F.interpolate(picture, scale_factor=scale, mode="bilinear", antialias=True)
    parts = []
    for head, layer in zip(net.net.lins, net.features(picture)):
        weight = head.model[-1].weight.clamp(min=0)  # 1 f 1 1
        parts.append((layer * (weight / layer[0, 0].numel()).sqrt()).flatten())
    return torch.cat(parts)


class Observers:
    """What each video of a batch observes, window after window; their targets are the same.

    Args:
        total: clips of a video.
        done: those that are known.
        frame: (clip, row) -> the clip's middle frame, asked for when the clip is finished.
    """

    def __init__(self, settings: Settings, total: int, done: Sequence[int], rows: int, frame: Callable[[int, int], Tensor],
                 embed: Embed):
        def distance(row: int):
            return feature_distance(lambda slot: embed(frame(slot, row)))

        self.rows = [windows(settings.scheme, total, done, distance(row), **settings.sizes) for row in range(rows)]

    def next(self, planned: Window) -> list[list[int]]:
        """Clips that each video observes in its next window, which makes those of `planned`."""
        drawn = [next(row) for row in self.rows]
        assert all(window.target == planned.target for window in drawn), "content decided what is made"
        return [window.observed for window in drawn]
