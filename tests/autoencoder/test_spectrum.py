"""Energy at high spatial frequencies against Parseval's theorem and pure waves."""

import math

import pytest
import torch
import torch.nn.functional as F

from autoencoder.spectrum import high_frequency_energy


def wave(cycles, axis, size=64):
    """Brightness b c t h w that oscillates `cycles` times along an axis (3 or 4)."""
    line = torch.cos(2 * math.pi * cycles * torch.arange(size) / size).expand(1, 1, 1, size, size)
    return line if axis == 4 else line.mT


def test_all_frequencies_together_are_the_mean_square():
    clip = torch.rand(3, 3, 4, 10, 14, dtype=torch.float64) * 2 - 1
    brightness = clip.mean(1)
    window = torch.hann_window(10, dtype=torch.float64)[:, None] * torch.hann_window(14, dtype=torch.float64)
    centred = (brightness - brightness.mean((-2, -1), keepdim=True)) * window
    torch.testing.assert_close(high_frequency_energy(clip, cutoff=-1.0), centred.square().mean((-2, -1)).mean(-1))


@pytest.mark.parametrize("axis", [3, 4])
@pytest.mark.parametrize("cutoff", [0.125, 0.25])
def test_waves_count_only_above_the_cutoff(axis, cutoff):
    total = high_frequency_energy(wave(10, axis), cutoff=-1.0)
    below, above = (round(cutoff * 64) + side for side in (-4, 4))  # the window spreads a line by one bin
    assert high_frequency_energy(wave(below, axis), cutoff) < 1e-9 * total
    torch.testing.assert_close(high_frequency_energy(wave(above, axis), cutoff), total, rtol=1e-6, atol=0.0)


def test_a_diagonal_wave_has_the_length_of_its_frequency():
    x = torch.arange(64)
    diagonal = torch.cos(2 * math.pi * 12 * (x[:, None] + x) / 64)[None, None, None]  # 12 sqrt(2) = 17 cycles
    assert high_frequency_energy(diagonal, 0.25) > 0.5 * high_frequency_energy(diagonal, -1.0)
    assert high_frequency_energy(wave(12, 3), 0.25) < 1e-9


def test_blur_loses_energy_and_brightness_has_none():
    clip = torch.rand(2, 3, 2, 32, 32) * 2 - 1
    blurred = F.avg_pool3d(clip, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    assert (high_frequency_energy(blurred) < 0.3 * high_frequency_energy(clip)).all()
    torch.testing.assert_close(high_frequency_energy(clip + 0.5), high_frequency_energy(clip), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(high_frequency_energy(clip * 0.5), high_frequency_energy(clip) / 4)


def test_each_clip_is_measured_alone():
    clip = torch.rand(3, 3, 2, 8, 8)
    torch.testing.assert_close(high_frequency_energy(clip), torch.cat([high_frequency_energy(c[None]) for c in clip]))
