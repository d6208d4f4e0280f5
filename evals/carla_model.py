"""FDM's networks that tell from a frame where on the map of CARLA's Town01 it was taken.

A classifier tells the cell of the map; a second network has a head for each cell, and that of the cell gives the coordinates.
The names of the parts are those of the released weights (ResNet-152 both), which are read as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evals.carla_map import TOWN01
from evals.features import exact
from tools import checkpoint
from tools.fit import fit
from tools.modelfile import WEIGHTS, ModelFile, read_model
from tools.registry import nearest
from tools.weights import weights_path

KIND = "carla"
RELEASED = "released"
PARTS = ("classifier", "regressor")
RELEASED_SIZE = (128, 128)  # of the frames that the released weights have seen
# blocks of the four layers, and whether a block is a bottleneck: what tells a ResNet of torchvision from its keys
RESNETS = {"resnet18": ((2, 2, 2, 2), False), "resnet34": ((3, 4, 6, 3), False), "resnet50": ((3, 4, 6, 3), True),
           "resnet101": ((3, 4, 23, 3), True), "resnet152": ((3, 8, 36, 3), True)}
ARCHITECTURES = ("small", *RESNETS)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class Located(NamedTuple):
    logits: Tensor  # n cells
    coords: Tensor  # n 2, metres


class SmallNet(nn.Module):
    """Four strided convolutions for trials on a CPU; like torchvision's ResNets it ends in `fc`."""

    def __init__(self, width: int = 32):
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 4 * width]
        self.layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                                      for a, b in pairwise(widths)))
        self.fc = nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:  # n 3 h w -> n classes
        return self.fc(self.layers(x).mean((2, 3)))


def build_trunk(arch: str) -> nn.Module:
    """Make a network that ends in `fc`: images n 3 h w -> n 1000."""
    if arch not in ARCHITECTURES:
        raise ValueError(f'model.arch "{arch}" is unknown{nearest(arch, ARCHITECTURES)}; known: {", ".join(ARCHITECTURES)}')
    if arch == "small":
        return SmallNet()
    from torchvision.models import get_model  # takes seconds, which no other metric needs
    return get_model(arch, weights=None)


class Regressor(nn.Module):
    """Coordinates in metres, from the head of a cell."""

    def __init__(self, arch: str):
        super().__init__()
        self.resnet = build_trunk(arch)
        features = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        self.regressors = nn.ModuleList(nn.Linear(features, 2) for _ in range(TOWN01.count))
        with torch.no_grad():  # a head begins in the middle of its cell
            for head, centre in zip(self.regressors, TOWN01.centres()):
                head.bias.copy_(centre)

    def forward(self, images: Tensor, cells: Tensor) -> Tensor:  # n 3 h w, n -> n 2
        features = self.resnet(images)
        weights = torch.stack([head.weight for head in self.regressors])[cells]  # n 2 d
        biases = torch.stack([head.bias for head in self.regressors])[cells]     # n 2
        return torch.einsum("nd,nkd->nk", features, weights) + biases


class CarlaNet(nn.Module):
    """Both networks; they share nothing.

    Args:
        arch: one of ARCHITECTURES.
    """

    def __init__(self, arch: str):
        super().__init__()
        self.arch = arch
        self.classifier = build_trunk(arch)
        self.classifier.fc = nn.Linear(self.classifier.fc.in_features, TOWN01.count)
        self.regressor = Regressor(arch)

    def forward(self, images: Tensor, cells: Tensor | None = None) -> Located:
        """Locate images n 3 h w in the cells given, or else in those that the classifier finds likeliest."""
        logits = self.classifier(images)
        return Located(logits, self.regressor(images, logits.argmax(1) if cells is None else cells))


def to_images(frames: Tensor) -> Tensor:
    """Normalise frames as ImageNet's networks want them: n h w 3, uint8 or float in 0..1 -> float n 3 h w."""
    pixels = frames.permute(0, 3, 1, 2)
    pixels = pixels / 255 if frames.dtype == torch.uint8 else pixels
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in (_MEAN, _STD))
    return (pixels - mean) / std


class Locator:
    """The networks, ready to tell where frames were taken.

    Attributes:
        size: height and width that frames must have.
        settings: all that decides the coordinates, for the report.
    """

    def __init__(self, net: CarlaNet, size: tuple[int, int], source: str):
        self.net, self.size = net.eval().requires_grad_(False), tuple(size)
        self.settings = {"model": source, "arch": net.arch, "weights_hash": checkpoint.state_hash(net.state_dict()),
                         "resolution": list(self.size)}

    def coordinates(self, frames: np.ndarray, *, batch_size: int = 8, resize: bool = False, name: str = "video") -> np.ndarray:
        """Tell the place of each frame: uint8 t h w c -> float32 t 2, x and y in metres.

        Args:
            batch_size: frames at once.
            resize: bring frames of another size to that of the model; else they are refused.
            name: of the video, for the error.
        """
        if frames.shape[1:3] != self.size and not resize:
            raise ValueError(f"{name} is {frames.shape[1]}x{frames.shape[2]}, the networks take {self.size[0]}x{self.size[1]} "
                             "(height x width); add --resize to scale and crop it")
        device = next(self.net.parameters()).device
        pixels = torch.from_numpy(fit(frames, self.size))
        with exact():
            return torch.cat([self.net(to_images(part.to(device))).coords.cpu() for part in pixels.split(batch_size)]).numpy()


def load_carla(model: str | Path, weights: str | None = None) -> Locator:
    """Read the two networks.

    Args:
        model: a run of --exp carla or a file of it; a folder with FDM's two files, whose names hold "classifier" and
            "regressor"; or "released": these two in the weights folder, where --exp download puts them.
        weights: of a run: "best" (the default where there are some) or "raw", the last; a run of --exp carla has no averages.

    Raises:
        ValueError: nothing there, damaged, or another network.
    """
    if str(model) == RELEASED:
        return _released({part: weights_path(f"carla-{part}") for part in PARTS}, RELEASED)
    path = Path(model)
    if path.is_dir() and not (path / "config.yaml").is_file() and not any((path / file).is_file() for file in WEIGHTS.values()):
        return _released({part: _only(path, part) for part in PARTS}, str(model))
    if path.is_dir():
        weights = weights or ("best" if (path / WEIGHTS["best"]).is_file() else "raw")
    file = read_model(path, weights or "raw")
    if file.kind != KIND:
        what = "a bare state dict" if file.kind == "foreign" else f"a model of kind {file.kind}"
        raise ValueError(f"{file.path} is {what}, wanted one of --exp carla; give its run folder, a folder that holds FDM's "
                         "classifier and regressor, or --model released")
    return Locator(from_file(file), tuple(file.config["size"]), str(model))


def from_file(file: ModelFile) -> CarlaNet:
    """Build the networks of a model file of kind "carla"."""
    net = CarlaNet(file.config["arch"])
    checkpoint.load_strict(net, file.state, str(file.path))
    return net


def _only(folder: Path, part: str) -> Path:
    found = [p for p in sorted(folder.iterdir()) if part in p.name.lower() and p.suffix in (".pth", ".pt", ".safetensors")]
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ValueError(f"{folder} is no run of --exp carla, and a folder of FDM's weights holds one file whose name says "
                         f"{part}, found {names}; put the two files alone into a folder, or give a run or released")
    return found[0]


def _released(files: Mapping[str, Path], source: str) -> Locator:
    states = {part: plain_state(checkpoint.load_raw(path), path) for part, path in files.items()}
    archs = {part: arch_of(state, "resnet." if part == "regressor" else "", files[part]) for part, state in states.items()}
    if len(set(archs.values())) > 1:
        raise ValueError(f"{source} holds a classifier that is a {archs['classifier']} and a regressor that is a "
                         f"{archs['regressor']}; give two files of one training")
    with torch.device("meta"):  # nothing is drawn
        net = CarlaNet(archs["classifier"])
    net.to_empty(device="cpu")
    for part in PARTS:
        checkpoint.load_strict(net.get_submodule(part), states[part], str(files[part]))
    return Locator(net, RELEASED_SIZE, source)


def plain_state(state: Any, path: Path) -> dict[str, Tensor]:
    """A state dict without its wrappings."""
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no state dict; give FDM's classifier_checkpoint.pth and regressor_checkpoint.pth")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def arch_of(state: Mapping[str, Tensor], prefix: str, path: Path) -> str:
    """Tell which ResNet a state dict is of."""
    found = [re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.", key) for key in state]
    blocks = tuple(len({m[2] for m in found if m and m[1] == str(layer)}) for layer in (1, 2, 3, 4))
    told = blocks, f"{prefix}layer1.0.conv3.weight" in state
    arch = next((name for name, known in RESNETS.items() if known == told), None)
    if arch is None:
        keys = ", ".join(list(state)[:5])
        raise ValueError(f"{path} holds no ResNet under {prefix or 'its first names'} (its first keys: {keys}); give FDM's "
                         f"{'regressor' if prefix else 'classifier'}")
    return arch


def start_from(net: CarlaNet, model: str) -> str:
    """Take the weights of another training, and say where they are from.

    Args:
        net: is changed.
        model: what load_carla reads; "imagenet", which torchvision fetches and checks; or a file of these, whose last layer is
            left out.
    """
    if model == "imagenet":
        state, source = _imagenet(net.arch), f"torchvision's ImageNet weights of {net.arch}"
    elif Path(model).is_file() and "fc.weight" in (state := read_model(model, "raw").state) and "fc.bias" in state:
        source = model
    else:
        other = load_carla(model)
        if other.net.arch != net.arch:
            raise ValueError(f"--init_from {model} is a {other.net.arch}, but model.arch={net.arch}; make them alike")
        net.load_state_dict(other.net.state_dict())
        return model
    for trunk in (net.classifier, net.regressor.resnet):
        own = {key: value for key, value in trunk.state_dict().items() if key.startswith("fc.")}
        checkpoint.load_strict(trunk, {key: value for key, value in state.items() if not key.startswith("fc.")} | own, source)
    return source


def _imagenet(arch: str) -> dict[str, Tensor]:
    if arch not in RESNETS:
        raise ValueError(f"--init_from imagenet is for model.arch={', '.join(RESNETS)}, got {arch}; leave it out")
    from torchvision.models import get_model_weights

    weights = get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; another file than the one expected
        raise ValueError(f"the ImageNet weights of {arch} cannot be fetched ({error}); fetch {weights.url} elsewhere and give "
                         "the file: --init_from FILE") from None
