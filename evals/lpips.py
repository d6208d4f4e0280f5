"""LPIPS 0.1 (Zhang et al. 2018) with the values of the `lpips` package, batched, from weights that are already here.

`lpips` is AlexNet's at the videos' own size, `lpips_vgg` VGG16's, `lpips_mcvd` AlexNet's at 128x128 as MCVD reports it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from evals.features import exact
from evals.protocol import METRICS, FrameMetric
from tools.checkpoint import file_hash, load_raw
from tools.weights import weights_path

if TYPE_CHECKING:
    import lpips  # it imports torchvision, which takes seconds: only who measures it should wait

SMALLEST = {"alex": 31, "vgg": 16}  # pixels that the strides leave something of
_AT_ONCE = 1 << 18                  # pixels of a forward pass
_FEW = 96 * 96                      # pixels of a frame, below which a CPU convolves planes faster than channels-last


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
        self._settings = {"network": f"LPIPS 0.1, {net}", "weights": Path(path).name, "sha256": file_hash(path)[:12],
                          "resize": "none" if size is None else f"{size}x{size}, antialiased bilinear"}

    def settings(self) -> dict:
        """Return the network and the size that it saw."""
        return {"settings": self._settings}

    def at_once(self, h: int, w: int, c: int) -> int:
        """Frames of a forward pass."""
        return max(1, _AT_ONCE // (self.size ** 2 if self.size else h * w))

    def see(self, real: Tensor) -> list[Tensor]:
        """Describe true frames, uint8 n h w c."""
        h, w = (self.size, self.size) if self.size else real.shape[1:3]
        if min(h, w) < SMALLEST[self.net]:
            raise ValueError(f"lpips with {self.net} needs frames of at least {SMALLEST[self.net]} pixels a side, got {w}x{h}; "
                             f"leave lpips out of --metrics or enlarge with --resolution")
        self.model.to(real.device)
        return self._features(real)

    def score(self, seen: list[Tensor], fake: Tensor) -> Tensor:
        """Return the distance of each frame: features of the true ones, uint8 n h w c -> float64 n."""
        return self._distance(seen, self._features(fake))

    def vectors(self, frames: Tensor) -> Tensor:
        """Describe frames by vectors whose squared distances are LPIPS: uint8 n h w c -> float32 n d."""
        parts = [(head.model[-1].weight / x[0, 0].numel()).sqrt() * x for head, x in zip(self.model.lins, self.see(frames))]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _features(self, frames: Tensor) -> list[Tensor]:  # uint8 n h w c -> n f h' w', of unit length over f
        pixels = rearrange(frames, "n h w c -> n c h w")
        if self.size and frames.shape[1:3] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        pixels = (pixels.float() / 127.5 - 1).expand(-1, 3, -1, -1)
        if pixels[0, 0].numel() < _FEW:
            pixels = pixels.contiguous()
        with exact():
            maps = self.model.net(self.model.scaling_layer(pixels))
        return [x.div_(torch.linalg.vector_norm(x, dim=1, keepdim=True).add_(1e-10)) for x in maps]

    def _distance(self, truth: list[Tensor], guess: list[Tensor]) -> Tensor:  # -> float64 n
        parts = [(head.model[-1].weight.flatten() @ (t - g).square_().flatten(2).mean(2).mT)
                 for head, t, g in zip(self.model.lins, truth, guess)]
        return torch.stack(parts).double().sum(0)


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
