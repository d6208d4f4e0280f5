"""What known clips cost: the window that is measured, and that their part is made once."""

import torch

from autoencoder.planes import PlaneShape
from latent_diffusion import bench_context
from latent_diffusion.bench_context import KNOWN, measure, window
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.unet import PlanesUNet, UNetConfig

SHAPE, UNET = PlaneShape(2, 4, 4), UNetConfig(width=16, mult=(1,), attention=(), heads=2)
CPU = torch.device("cpu")


def test_the_window_has_known_clips_and_one_to_make():
    net = LatentDenoiser(UNET, {"name": "window", "slots": KNOWN + 1}, SHAPE, 3, 4)
    context = window(net, 2, CPU)
    assert context.whole.tolist() == [[True] * KNOWN + [False]] * 2 and context.targets.sum() == 2
    assert context.latents[:, :KNOWN].any() and not context.latents[:, KNOWN].any()


def test_known_clips_go_through_the_network_only_when_the_cache_is_made(monkeypatch):
    evaluated, remembered = [], []
    trunk, remember = PlanesUNet._trunk, PlanesUNet.remember
    monkeypatch.setattr(PlanesUNet, "_trunk", lambda self, x, *args: evaluated.append(len(x)) or trunk(self, x, *args))
    monkeypatch.setattr(PlanesUNet, "remember", lambda self, x, *args: remembered.append(len(x)) or remember(self, x, *args))
    monkeypatch.setattr(bench_context, "BATCHES", (3,))
    result = measure(UNET, SHAPE, 3, 4, device=CPU, repeats=2)
    assert set(remembered) == {3 * KNOWN}
    assert evaluated[-6:] == [3] * 6  # two warm-ups, two pairs
    assert result["batch_3"]["ratio"] > 0 and result["batch_3"]["cache_seconds"] > 0
