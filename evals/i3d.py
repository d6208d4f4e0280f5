"""I3D on Kinetics-400 (Carreira and Zisserman 2017: Inception-v1 inflated to 3-D), the network of the FVD.

Two files of the same network are read: VideoGPT's state dict (`i3d_pretrained_400.pt`, which PVDM uses) and the TorchScript
of StyleGAN-V (`i3d_torchscript.pt`). They see other pixels: the former the centre crop of a frame, the latter all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evals.features import exact, is_torchscript, load_torchscript, one_by_one, resized
from tools.checkpoint import file_hash, load_raw, load_strict
from tools.weights import weights_path

SIZE, CLASSES = 224, 400
LEAST_FRAMES = 10  # fewer leave nothing for the last pooling over time
_MIXED = {  # channels of b0; b1a, b1b; b2a, b2b; b3b
    "3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64), "4c": (160, 112, 224, 24, 64, 64), "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64), "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128),
}


def load_i3d(path: str | Path | None = None) -> I3DFeatures | ScriptedI3D:
    """Read I3D for `features(frames)`: uint8 b t h w c -> logits float32 b 400.

    Args:
        path: a state dict or a TorchScript file; by default the named weights "i3d".

    Raises:
        ValueError: the file is missing, damaged or another network.
    """
    path = Path(path) if path else weights_path("i3d")
    if not path.is_file():
        raise ValueError(f"--i3d {path}: no such file; give i3d_pretrained_400.pt or i3d_torchscript.pt")
    if is_torchscript(path):
        return ScriptedI3D(load_torchscript(path), path)
    state = load_raw(path)
    if isinstance(state, dict) and isinstance(state.get("state"), dict):  # a converted file says what it is beside the state
        state = state["state"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no I3D: wanted a state dict of tensors; give i3d_pretrained_400.pt")
    return I3DFeatures(build_i3d({key.removeprefix("module."): value for key, value in state.items()}, str(path)), path)


def build_i3d(state: Mapping[str, Tensor], what: str) -> I3D:
    """Make the network with these weights; `what` names their source in the error."""
    with torch.device("meta"):  # nothing is drawn, and the random generator stays where it is
        net = I3D()
    net.to_empty(device="cpu")
    counters = {name: torch.zeros_like(buffer) for name, buffer in net.named_buffers() if name.endswith("num_batches_tracked")}
    load_strict(net, {**counters, **state}, what)  # some files leave the counters of batches out
    return net


class I3DFeatures:
    """I3D with the preprocessing of VideoGPT and PVDM: shorter side to 224, centre crop, [-1, 1].

    Args:
        net: the network with its weights.
        path: where they are from, for the report.
    """
    dim = CLASSES

    def __init__(self, net: I3D, path: str | Path):
        self.net = net.eval().requires_grad_(False)
        self.settings = {"network": "I3D Kinetics-400, logits", "weights": Path(path).name, "sha256": file_hash(path)[:12],
                         "resize": f"shorter side to {SIZE}, bilinear, centre crop"}

    def features(self, frames: Tensor) -> Tensor:
        """Return the logits of videos: uint8 b t h w c -> float32 b 400.

        Raises:
            ValueError: fewer than 10 frames.
        """
        check_length(frames)
        self.net.to(frames.device)
        with exact():
            return torch.cat([self.net(resized(video, SIZE, crop=True) / 127.5 - 1) for video in one_by_one(frames)])


class ScriptedI3D:
    """The TorchScript of StyleGAN-V, called as its authors do: it resizes (stretches) and scales the pixels by itself."""
    dim = CLASSES

    def __init__(self, net: torch.jit.ScriptModule, path: str | Path):
        self.net = net
        self.settings = {"network": "I3D Kinetics-400, logits (TorchScript)", "weights": Path(path).name,
                         "sha256": file_hash(path)[:12], "resize": f"{SIZE}x{SIZE}, bilinear, inside the network"}

    def features(self, frames: Tensor) -> Tensor:
        """Return the logits of videos: uint8 b t h w c -> float32 b 400."""
        check_length(frames)
        self.net.to(frames.device)
        with exact():
            logits = [self.net(video.permute(0, 4, 1, 2, 3).float().expand(-1, 3, -1, -1, -1),
                               rescale=True, resize=True, return_features=True) for video in one_by_one(frames)]
        return torch.cat(logits).float()


def check_length(frames: Tensor) -> None:
    """Refuse videos that are too short for the network."""
    assert frames.dtype == torch.uint8 and frames.ndim == 5, f"wanted uint8 b t h w c, got {frames.dtype} {frames.shape}"
    if frames.shape[1] < LEAST_FRAMES:
        raise ValueError(f"fvd needs videos of at least {LEAST_FRAMES} frames, which is what I3D looks at, got "
                         f"{frames.shape[1]}; make longer ones, or leave fvd out of --metrics")


class I3D(nn.Module):
    """b 3 t 224 224 in [-1, 1] -> logits b 400; names of the parts are those of the released weights."""

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        channels = 192
        for name, widths in _MIXED.items():
            self.add_module(f"Mixed_{name}", Mixed(channels, *widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Logits(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = pool_same(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = pool_same(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in _MIXED:
            if name == "4b":
                x = pool_same(x, (3, 3, 3), (2, 2, 2))
            elif name == "5b":
                x = pool_same(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(f"Mixed_{name}")(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inward: int, outward: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(inward, outward, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outward, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        pads = same_padding(x.shape[2:], self.conv3d.kernel_size, self.conv3d.stride)
        if all(front == back for front, back in pads):  # the convolution pads alike at both ends by itself
            x = F.conv3d(x, self.conv3d.weight, stride=self.conv3d.stride, padding=[front for front, _ in pads])
        else:
            x = self.conv3d(pad(x, pads))
        return F.relu_(self.bn(x))


class Mixed(nn.Module):
    """Four branches side by side (Inception)."""

    def __init__(self, inward: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int):
        super().__init__()
        self.b0 = Unit(inward, b0, 1)
        self.b1a, self.b1b = Unit(inward, b1a, 1), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inward, b2a, 1), Unit(b2a, b2b, 3)
        self.b3b = Unit(inward, b3b, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class Logits(nn.Module):
    """The classifier at each remaining moment, averaged over them."""

    def __init__(self, inward: int, outward: int):
        super().__init__()
        self.conv3d = nn.Conv3d(inward, outward, 1)

    def forward(self, x: Tensor) -> Tensor:  # b c t 1 1 -> b classes
        return self.conv3d(x)[..., 0, 0].mean(-1)


def same_padding(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[int, int]]:
    """Zeros before and after each axis that TensorFlow calls "same": the odd one comes last."""
    totals = [max(k - (size % s or s), 0) for size, k, s in zip(sizes, kernel, stride)]
    return [(total // 2, total - total // 2) for total in totals]


def pad(x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
    return F.pad(x, [n for pair in reversed(pads) for n in pair])  # the last axis comes first there


def pool_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max-pool values that are not negative, so that padding with zeros never wins over them."""
    pads = same_padding(x.shape[2:], kernel, stride)
    if all(front == back for front, back in pads):
        return F.max_pool3d(x, kernel, stride, padding=[front for front, _ in pads])
    return F.max_pool3d(pad(x, pads), kernel, stride)
