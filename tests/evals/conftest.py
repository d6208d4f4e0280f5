"""Small stand-ins for the networks of the metrics, whose weights cannot come along."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn


class MeanNet:
    """Describes a video by eight numbers that are easy to say: the mean of each of eight bands of rows."""
    dim, settings = 8, {"network": "means"}

    def features(self, frames):
        return torch.stack([band.float().mean((1, 2, 3, 4)) for band in frames.tensor_split(8, dim=2)], dim=1)

    def probabilities(self, frames):
        return (self.features(frames) / 4).softmax(1).double()


class FewMaps(nn.Module):
    """In place of AlexNet: two layers, of which lpips' heads take the differences."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.slice1, self.slice2 = (nn.Sequential(nn.Conv2d(c, d, 3, 2), nn.ReLU()) for c, d in ((3, 4), (4, 6)))
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=draw) * 0.2


def few_lpips(net="alex", path=None):
    heads = nn.ModuleList(nn.ModuleDict({"model": nn.Sequential(nn.Conv2d(c, 1, 1, bias=False))}) for c in (4, 6))
    for head in heads:
        nn.init.constant_(head["model"][0].weight, 0.3)
    lins = [SimpleNamespace(model=head["model"]) for head in heads]
    colours = SimpleNamespace(shift=torch.zeros(1, 3, 1, 1), scale=torch.ones(1, 3, 1, 1))
    return SimpleNamespace(net=FewMaps().requires_grad_(False), scaling_layer=colours, lins=lins)


@pytest.fixture
def small_nets(monkeypatch, tmp_path):
    """Every metric can be made, with networks that take no time."""
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"nothing")
    for target in ("evals.fvd.load_i3d", "evals.fvd.load_videomae", "evals.inception_score.load_c3d"):
        monkeypatch.setattr(target, lambda path=None: MeanNet())
    monkeypatch.setattr("evals.lpips.load_lpips", few_lpips)
    monkeypatch.setattr("evals.lpips.weights_path", lambda name: weights)
    monkeypatch.setattr("evals.lpips.SMALLEST", {"alex": 1, "vgg": 1})
