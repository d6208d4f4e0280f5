"""Energy of frames at high spatial frequencies: what a blurry codec loses and an adversarial loss brings back."""

import torch
from torch import Tensor


def high_frequency_energy(clip: Tensor, cutoff: float = 0.25) -> Tensor:
    """Mean spectral energy of a clip's brightness above `cutoff` cycles a pixel (the Nyquist limit is 0.5).

    Args:
        clip: b c t h w in [-1, 1].

    Returns:
        b, float64. By Parseval's theorem it is that part of the pixels' mean square that lies above the cutoff.
    """
    brightness = clip.double().mean(1)                                   # b t h w
    h, w = brightness.shape[-2:]
    window = torch.hann_window(h, dtype=torch.float64, device=clip.device)[:, None] \
        * torch.hann_window(w, dtype=torch.float64, device=clip.device)  # a frame's borders are no detail
    energy = torch.fft.fft2((brightness - brightness.mean((-2, -1), keepdim=True)) * window).abs().square()
    fy, fx = torch.fft.fftfreq(h, device=clip.device)[:, None], torch.fft.fftfreq(w, device=clip.device)
    above = (fy.square() + fx.square()).sqrt() > cutoff
    return (energy * above).sum((-2, -1)).mean(-1) / (h * w) ** 2
