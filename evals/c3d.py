"""C3D on UCF-101 (Tran et al. 2015), the classifier of the video inception score.

Two files of the same network are read: the TorchScript of StyleGAN-V (`c3d_ucf101.pt`, which holds its own preprocessing),
and TGANv2's original (`conv3d_deepnetA_ucf.npz` with `mean2.npz` beside it).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from evals.features import exact, is_torchscript, load_torchscript, one_by_one
from tools.checkpoint import file_hash, load_strict
from tools.weights import weights_path

FRAMES, SIZE = 16, 112
MEAN_FILE = "mean2.npz"
_CONVS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
_LINEARS = ("fc6", "fc7", "fc8")
_POOLS = {"conv1a": (1, 2, 2), "conv2a": 2, "conv3b": 2, "conv4b": 2, "conv5b": 2}  # after these


class C3DProbabilities:
    """A classifier of videos of 16 frames.

    Args:
        net: float b c 16 h w in 0..255 -> probabilities b classes.
        path: where it is from, for the report.
    """

    def __init__(self, net: nn.Module, path: str | Path):
        self.net = net.eval()
        self.settings = {"network": "C3D UCF-101, probabilities", "weights": Path(path).name, "sha256": file_hash(path)[:12],
                         "frames": f"the first {FRAMES}"}

    def probabilities(self, frames: Tensor) -> Tensor:
        """Classify the first 16 frames: uint8 b t h w c -> float64 b classes."""
        if frames.shape[1] < FRAMES:
            raise ValueError(f"inception_score needs videos of at least {FRAMES} frames, which is what C3D looks at, got "
                             f"{frames.shape[1]}; make longer ones, or leave inception_score out of --metrics")
        self.net.to(frames.device)
        with exact():
            clips = rearrange(frames[:, :FRAMES], "b t h w c -> b c t h w").float().expand(-1, 3, -1, -1, -1)
            return torch.cat([self.net(clip) for clip in one_by_one(clips)]).double()


def load_c3d(path: str | Path | None = None) -> C3DProbabilities:
    """Read C3D.

    Args:
        path: a TorchScript file, or an npz beside mean2.npz; by default the named weights "c3d".

    Raises:
        ValueError: a file is missing, damaged or another network.
    """
    path = Path(path) if path else weights_path("c3d")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give c3d_ucf101.pt, or conv3d_deepnetA_ucf.npz")
    if is_torchscript(path):
        return C3DProbabilities(load_torchscript(path), path)
    beside = path.with_name(MEAN_FILE)
    if path.suffix != ".npz" or not beside.is_file():
        raise ValueError(f"{path} is no TorchScript file, nor an npz with {MEAN_FILE} beside it; "
                         f"give c3d_ucf101.pt, or conv3d_deepnetA_ucf.npz and {MEAN_FILE} in one folder")
    with np.load(path) as arrays, np.load(beside) as mean:
        state = from_chainer(arrays, mean["mean"])
    if missing := [name for name in (*_CONVS, *_LINEARS) if f"{name}.weight" not in state]:
        raise ValueError(f"{path} holds no C3D: missing {', '.join(missing[:5])}; give conv3d_deepnetA_ucf.npz")
    with torch.device("meta"):  # nothing is drawn
        net = C3D({name: state[f"{name}.weight"].shape for name in (*_CONVS, *_LINEARS)})
    net.to_empty(device="cpu")
    load_strict(net, state, str(path))
    return C3DProbabilities(net.requires_grad_(False), path)


def from_chainer(arrays: Mapping[str, np.ndarray], mean: np.ndarray) -> dict[str, Tensor]:
    """Rename TGANv2's arrays ("conv1a/W", "conv1a/b", ...); the mean video, 3 16 128 171, is cut as they do."""
    state = {key.replace("/W", ".weight").replace("/b", ".bias"): torch.from_numpy(np.array(value, np.float32))
             for key, value in arrays.items()}
    mean = np.asarray(mean, np.float32).reshape(3, FRAMES, *mean.shape[-2:])
    return {**state, "mean": torch.from_numpy(mean[:, :, 8:8 + SIZE, 8:8 + SIZE].copy())}


class C3D(nn.Module):
    """b 3 16 h w, RGB in 0..255 -> probabilities b classes.

    Args:
        shapes: of the weights of each layer (published: 64, 128, 256, 256, 512, ... channels, 4096, 4096, 101).
    """

    def __init__(self, shapes: Mapping[str, torch.Size]):
        super().__init__()
        for name in _CONVS:
            outward, inward = shapes[name][:2]
            self.add_module(name, nn.Conv3d(inward, outward, 3, padding=1))
        for name in _LINEARS:
            outward, inward = shapes[name]
            self.add_module(name, nn.Linear(inward, outward))
        self.register_buffer("mean", torch.zeros(3, FRAMES, SIZE, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        b = len(x)
        x = rearrange(x.flip(1), "b c t h w -> (b t) c h w")  # it was trained on BGR
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=True)
        x = rearrange(x, "(b t) c h w -> b c t h w", b=b) - self.mean
        for name in _CONVS:
            x = F.relu_(self.get_submodule(name)(x))
            if name in _POOLS:
                x = F.max_pool3d(x, _POOLS[name], ceil_mode=True)  # seven rows become four
        x = F.relu_(self.fc7(F.relu_(self.fc6(x.flatten(1)))))
        return self.fc8(x).softmax(1)
