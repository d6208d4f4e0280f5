"""Start noise against its moments: linear maps are put to a basis, so that covariances are exact."""

import math

import pytest
import torch

from autoencoder.planes import PlaneShape
from latent_diffusion.noise import mixed, shared, shared_over_frames, tempered, truncated

each_fraction = pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])


def basis(*shape):
    """All unit vectors of this shape, so that what becomes of them holds a linear map's matrix."""
    return torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)


def covariance(mapped):
    """Of what independent unit noise becomes under the map that gave `mapped` from a basis."""
    return mapped.flatten(1).T @ mapped.flatten(1)


def quantiles(count=20001):
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.2])
def test_temperature_is_the_standard_deviation(temperature):
    torch.testing.assert_close(covariance(tempered(basis(5), temperature)), temperature**2 * torch.eye(5).double())


@pytest.mark.parametrize("bound", [0.5, 1.0, 2.0, 4.0])
def test_truncated_noise_has_the_truncated_normal_moments(bound):
    noise = truncated(quantiles(), bound)
    density = math.exp(-bound**2 / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * bound * density / math.erf(bound / math.sqrt(2))
    fourth = 3 * variance - 2 * bound**3 * density / math.erf(bound / math.sqrt(2))
    assert noise.mean().item() == pytest.approx(0, abs=1e-12)
    assert noise.square().mean().item() == pytest.approx(variance, abs=1e-4)
    assert noise.pow(4).mean().item() == pytest.approx(fourth, abs=1e-3)
    assert noise.abs().max() <= bound


def test_truncation_keeps_the_order_and_lets_wide_bounds_be():
    noise = quantiles()
    assert bool((truncated(noise, 1.5).diff() > 0).all())
    torch.testing.assert_close(truncated(noise, 12.0), noise)


def test_truncated_outliers_are_finite():
    out = truncated(torch.tensor([-40.0, -9.0, 0.0, 9.0, 40.0]), 2.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.tensor([-2.0, -2.0, 0.0, 2.0, 2.0]))
    assert truncated(torch.tensor([-40.0, 40.0]), 12.0).tolist() == [-12.0, 12.0]


@each_fraction
def test_mixed_noise_has_unit_variance_and_the_fraction_in_common(fraction):
    draws = basis(3, 4)  # two noises of their own and one in common
    a, b = (mixed(draws[:, own], draws[:, 2], fraction) for own in (0, 1))
    wanted = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(covariance(a), wanted)
    torch.testing.assert_close(a.T @ b, fraction * wanted)


@each_fraction
@pytest.mark.parametrize("count", [1, 2, 7])
def test_shared_noise_has_unit_variance_and_the_fraction_as_correlation(fraction, count):
    found = covariance(shared(basis(count), fraction, 1))
    torch.testing.assert_close(found, (1 - fraction) * torch.eye(count).double() + fraction)


def test_noise_is_shared_along_one_axis_only():
    found = covariance(shared(basis(2, 3), 0.4, 2)).reshape(2, 3, 2, 3)
    assert found[0, :, 1].abs().max() < 1e-12
    torch.testing.assert_close(found[1, :, 1], 0.6 * torch.eye(3).double() + 0.4)


def test_nothing_shared_is_the_noise_itself():
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shared(noise, 0.0, 1), noise) and torch.equal(tempered(noise, 1.0), noise)
    video = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shared_over_frames(video, 0.0, PlaneShape(t=2, h=1, w=2)), video)


@each_fraction
@pytest.mark.parametrize("clips", [1, 3])
def test_frames_of_a_video_share_noise(fraction, clips):
    shape, channels = PlaneShape(t=2, h=3, w=1), 2
    found = covariance(shared_over_frames(basis(clips, channels, shape.total), fraction, shape))
    # What a value is besides its frame: the plane, the channel and the place in the plane; hw has no frame but the clip.
    place = [("hw", i) for i in range(3)] + [("tw", 0)] * 2 + [("th", i) for i in range(3)] * 2
    values = [(channel, *p) for _ in range(clips) for channel in range(channels) for p in place]
    alike = torch.tensor([[a == b for a in values] for b in values])
    wanted = torch.where(alike, fraction, 0.0).double().fill_diagonal_(1.0)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("call, word", [
    (lambda x: tempered(x, -0.1), "temperature"), (lambda x: tempered(x, math.nan), "temperature"),
    (lambda x: truncated(x, 0.0), "bound"), (lambda x: truncated(x, math.nan), "bound"),
    (lambda x: shared(x, 1.5, 0), "fraction"), (lambda x: mixed(x, x, -0.1), "fraction"),
    (lambda x: shared_over_frames(x, 2.0, PlaneShape(1, 1, 1)), "fraction"),
])
def test_nonsense_is_refused(call, word):
    with pytest.raises(ValueError, match=word) as error:
        call(torch.zeros(1, 1, 1, 3))
    assert "\n" not in str(error.value)
