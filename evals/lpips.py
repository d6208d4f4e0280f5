"""LPIPS 0.1 (Zhang et al. 2018) with the values of the `lpips` package, batched, from weights that are already here.

`lpips` is AlexNet's at the videos' own size, `lpips_vgg` VGG16's, `lpips_mcvd` AlexNet's at 128x128 as MCVD reports it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from evals.features import exact
from evals.protocol import METRICS, FrameMetric
from evals.trunk import Trunk
from tools.checkpoint import file_hash, load_raw
from tools.weights import weights_path

if TYPE_CHECKING:
    import lpips  # it imports torchvision, which takes seconds: only who measures it should wait

SMALLEST = {"alex": 31, "vgg": 16}  # pixels that the strides leave something of
_AT_ONCE = 1 << 18                  # pixels of a forward pass
_SAMPLES = 4                        # times as many of made ones, of which less is kept
_NEAR = 1 << 17                     # numbers of a piece of maps, which stays in the cache while it is compared


def load_lpips(net: str = "alex", path: str | Path | None = None) -> lpips.LPIPS:
    """Read the frozen LPIPS network; the package's own constructor would download the backbone, or draw one.

    Args:
        net: "alex" or "vgg".
        path: backbone in torchvision's layout; by default the named weights "lpips-alex" or "lpips-vgg".

    Raises:
        ValueError: the file is missing, damaged or another network.
    """
    import lpips
    if net not in SMALLEST:
        raise ValueError(f'lpips net must be one of {", ".join(SMALLEST)}, got "{net}"')
    path = Path(path) if path else weights_path(f"lpips-{net}")
    backbone = load_raw(path)
    heads = load_raw(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
    # Built on the meta device, nothing is drawn: a random backbone takes seconds and moves the global generator.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision by outdated argument names
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    model.scaling_layer = lpips.ScalingLayer()  # its constants are in no file
    state = dict(model.scaling_layer.state_dict(prefix="scaling_layer."))
    for key, here in model.state_dict().items():
        part, *rest = key.split(".")
        if part == "net":  # net.slice2.3.weight is features.3.weight
            source = ".".join(["features", *rest[1:]])
            if not isinstance(backbone, dict) or source not in backbone or backbone[source].shape != here.shape:
                raise ValueError(f"{path} is no {net} backbone for lpips: it has no {source} of shape {tuple(here.shape)}; "
                                 f"give torchvision's weights of {net}")
            state[key] = backbone[source].float()
        elif part != "scaling_layer":  # lin0.model.1.weight, listed once more as lins.0.model.1.weight
            state[key] = heads[key.replace("lins.", "lin", 1)]
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


@METRICS.register("lpips")
class LPIPS(FrameMetric):
    """LPIPS of each frame, averaged over the frames and then over the videos.

    Args:
        net: "alex" or "vgg".
        size: resize frames to size x size first, bilinear with antialiasing; None leaves them.
        path: see load_lpips.
    """
    higher_is_better = False

    def __init__(self, *, net: str = "alex", size: int | None = None, path: str | Path | None = None):
        super().__init__()
        path = path or weights_path(f"lpips-{net}") if net in SMALLEST else path
        self.net, self.model, self.size = net, load_lpips(net, path), size
        self._trunks: dict[tuple[int, int], Trunk] = {}  # of the last size of frames
        self._settings = {"network": f"LPIPS 0.1, {net}", "weights": Path(path).name, "sha256": file_hash(path)[:12],
                          "resize": "none" if size is None else f"{size}x{size}, antialiased bilinear"}

    def settings(self) -> dict:
        """Return the network and the size that it saw."""
        return {"settings": self._settings}

    def at_once(self, h: int, w: int, c: int) -> int:
        """Frames of a forward pass."""
        return max(1, _AT_ONCE // (self.size ** 2 if self.size else h * w))

    def see(self, real: Tensor) -> list[Tensor]:
        """Describe true frames: uint8 n h w c -> maps h' w' n d, of unit length over d."""
        h, w = (self.size, self.size) if self.size else real.shape[1:3]
        if min(h, w) < SMALLEST[self.net]:
            raise ValueError(f"lpips with {self.net} needs frames of at least {SMALLEST[self.net]} pixels a side, got {w}x{h}; "
                             f"leave lpips out of --metrics or enlarge with --resolution")
        seen: list[list[Tensor]] = [[] for _ in self.model.lins]
        for level, _, maps in self._maps(real, len(real)):
            seen[level].append(maps * _shrink(maps))
        return [torch.cat(parts, dim=2) for parts in seen]

    def score(self, seen: list[Tensor], fake: Tensor) -> Tensor:
        """Return the distance of each frame: what was seen of the true ones, uint8 k n h w c -> float64 k n."""
        _, n, h, w, c = fake.shape
        some = max(1, _SAMPLES * self.at_once(h, w, c) // n)
        return torch.cat([self._score(seen, samples) for samples in fake.split(some)])

    def vectors(self, frames: Tensor) -> Tensor:
        """Describe frames by vectors whose squared distances are LPIPS: uint8 n h w c -> float32 n d."""
        seen = self.see(frames)  # before the weights are asked for: it brings the network to the frames' device
        parts = [(weight / x[..., 0, 0].numel()).sqrt() * x for weight, x in zip(self._weights(), seen)]
        return torch.cat([part.movedim(2, 0).flatten(1) for part in parts], dim=1)

    def _weights(self) -> list[Tensor]:  # of the channels of each level
        return [head.model[-1].weight.flatten() for head in self.model.lins]

    def _score(self, seen: list[Tensor], fake: Tensor) -> Tensor:
        k, n = fake.shape[:2]
        weights, total = self._weights(), torch.zeros(k * n, dtype=torch.float64, device=fake.device)
        for level, at, maps in self._maps(fake.flatten(0, 1), n):
            start = at.start % n
            total[at] += _apart(seen[level][:, :, start:start + maps.shape[2]], maps, weights[level])
        return total.view(k, n)

    def _maps(self, frames: Tensor, video: int) -> Iterator[tuple[int, slice, Tensor]]:
        """Yield level, which frames, and their maps, h' w' n d, of frames, uint8 n h w c, so many of which are a video."""
        pixels = rearrange(frames, "n h w c -> n c h w")
        if self.size and frames.shape[1:3] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        with exact():
            if frames.device.type == "cpu":
                yield from self._trunk(*pixels.shape[2:])(rearrange(pixels, "n c h w -> n h w c"), video)
                return
            self.model.to(frames.device)
            pixels = (pixels.float() / 127.5 - 1).expand(-1, 3, -1, -1)
            for level, maps in enumerate(self.model.net(self.model.scaling_layer(pixels))):
                yield level, slice(0, len(frames)), rearrange(maps, "n c h w -> h w n c")

    def _trunk(self, h: int, w: int) -> Trunk:
        if (h, w) not in self._trunks:
            net, colour = self.model.net, self.model.scaling_layer
            self._trunks = {(h, w): Trunk([getattr(net, f"slice{i + 1}") for i in range(len(self.model.lins))], (h, w),
                                          colour.shift, colour.scale)}
        return self._trunks[h, w]


def _shrink(maps: Tensor) -> Tensor:  # ... c -> ... 1: what brings them to unit length
    return torch.linalg.vector_norm(maps, dim=-1, keepdim=True).add_(1e-10).reciprocal_()


def _apart(truth: Tensor, maps: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared distance of unit vectors, mean over positions: h w n c, h w (k n) c, c -> float64 (k n)."""
    (h, w, count, c), n = maps.shape, truth.shape[2]
    truth, maps = truth.reshape(h * w, 1, n, c), maps.reshape(h * w, -1, n, c)
    total = torch.zeros(count, dtype=torch.float64, device=maps.device)
    some = max(1, _NEAR // maps[0].numel())
    for t, x in zip(truth.split(some), maps.split(some)):
        apart = torch.addcmul(t, x, _shrink(x), value=-1, out=torch.empty_like(x))
        total += (apart.mul_(apart).view(-1, c) @ weight).view(-1, count).sum(0)
    return total / (h * w)


@METRICS.register("lpips_vgg")
class VggLPIPS(LPIPS):
    """LPIPS with VGG16.

    Args:
        size: see LPIPS.
        path: see load_lpips.
    """

    def __init__(self, *, size: int | None = None, path: str | Path | None = None):
        super().__init__(net="vgg", size=size, path=path)


@METRICS.register("lpips_mcvd")
class SmallLPIPS(LPIPS):
    """LPIPS with AlexNet of frames resized to 128x128: what MCVD reports.

    Args:
        path: see load_lpips.
    """

    def __init__(self, *, path: str | Path | None = None):
        super().__init__(net="alex", size=128, path=path)
