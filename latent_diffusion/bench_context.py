"""What known clips cost in a network evaluation of the condition `window`: their keys and values are computed once a window."""

from statistics import median
from typing import Any

import torch

from autoencoder.planes import PlaneShape
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.unet import UNetConfig
from latent_diffusion.window import WindowContext
from tools.rng import fork, randn
from tools.speed import timed

KNOWN, BATCHES = 4, (1, 4)


def measure(unet: UNetConfig, shape: PlaneShape, channels: int, frames: int, *, device: torch.device,
            repeats: int = 3) -> dict[str, Any]:
    """Time the evaluation of one target clip with four known clips before it, and with none, by turns.

    Args:
        unet: sizes of the network.
        shape, channels, frames: of a clip's latent.

    Returns:
        For each batch size ("batch_1", "batch_4") "seconds" with known clips, "plain_seconds" without, the median "ratio"
        of neighbouring runs, and "cache_seconds" of computing what is kept of the known ones.
    """
    with fork(0, "init"):
        net = LatentDenoiser(unet, {"name": "window", "slots": KNOWN + 1}, shape, channels, frames).to(device).eval()
    return {f"batch_{batch}": _one(net, batch, device, repeats) for batch in BATCHES}


@torch.no_grad()
def _one(net: LatentDenoiser, batch: int, device: torch.device, repeats: int) -> dict[str, float]:
    z = randn((batch, 1, net.channels, net.shape.total), 0, "bench").to(device)
    t = torch.full((batch,), 500.0, device=device)
    caching, seen = [], None

    def cache() -> None:
        nonlocal seen
        seen = net.prepare(window(net, batch, device), z, keep=True)
    caching = [timed(cache, device) for _ in range(2)]
    alone = net.prepare(net.condition.nothing(batch, device, 1), z, keep=True)
    for prepared in (alone, seen):
        net(z, t, prepared)
    pairs = [(timed(lambda: net(z, t, alone), device), timed(lambda: net(z, t, seen), device)) for _ in range(repeats)]
    plain, known = (median(seconds) for seconds in zip(*pairs))
    return {"seconds": known, "plain_seconds": plain, "ratio": median(k / p for p, k in pairs),
            "cache_seconds": min(caching)}


def window(net: LatentDenoiser, batch: int, device: torch.device) -> WindowContext:
    """Known clips, and after them one of which nothing is known."""
    blank = net.condition.nothing(batch, device, KNOWN + 1)
    blank.known[:, :KNOWN] = True
    blank.latents[:, :KNOWN] = randn((batch, KNOWN, net.channels, net.shape.total), 1, "bench").to(device)
    return blank
