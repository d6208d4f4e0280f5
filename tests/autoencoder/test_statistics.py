"""Running mean and deviation against those of the data itself."""

import pytest
import torch

from autoencoder.planes import PlaneShape
from autoencoder.statistics import RunningStatistics

SHAPE, CHANNELS = PlaneShape(2, 3, 4), 5


def latents(batch, seed=0):
    rng = torch.Generator().manual_seed(seed)
    scale = torch.rand(CHANNELS, SHAPE.total, generator=rng) + 0.5
    return torch.randn(batch, CHANNELS, SHAPE.total, generator=rng) * scale + torch.arange(CHANNELS)[:, None]


def direct(latent):
    """Mean and population deviation of each plane and channel: 3 c each."""
    planes = latent.double().split(SHAPE.sizes, dim=-1)
    flat = [plane.transpose(0, 1).flatten(1) for plane in planes]  # c (b n)
    return (torch.stack([f.mean(1) for f in flat]).float(), torch.stack([f.std(1, unbiased=False) for f in flat]).float())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_first_batch_is_unbiased_whatever_the_decay(decay):
    stats, data = RunningStatistics(SHAPE, CHANNELS, decay), latents(6)
    stats.update([data])
    for got, want in zip(stats.mean_std(), direct(data)):
        torch.testing.assert_close(got, want)


def test_the_same_data_again_changes_nothing():
    stats, data = RunningStatistics(SHAPE, CHANNELS, 0.9), latents(6)
    for _ in range(5):
        stats.update([data])
    for got, want in zip(stats.mean_std(), direct(data)):
        torch.testing.assert_close(got, want)


def test_later_batches_weigh_by_the_decay():
    stats, first, second = RunningStatistics(SHAPE, CHANNELS, 0.75), latents(4), latents(4, seed=1)
    stats.update([first])
    stats.update([second])
    share = 0.75 / 1.75  # decay : 1, normalised
    mean = share * direct(first)[0] + (1 - share) * direct(second)[0]
    torch.testing.assert_close(stats.mean_std()[0], mean)


def test_micro_batches_equal_one_batch():
    one, many, data = RunningStatistics(SHAPE, CHANNELS), RunningStatistics(SHAPE, CHANNELS), latents(6)
    one.update([data])
    many.update(list(data.split([1, 2, 3])))
    for got, want in zip(many.mean_std(), one.mean_std()):
        torch.testing.assert_close(got, want)


def test_before_any_data_latents_count_as_normal():
    mean, std = RunningStatistics(SHAPE, CHANNELS).mean_std()
    assert torch.equal(mean, torch.zeros(3, CHANNELS)) and torch.equal(std, torch.ones(3, CHANNELS))


def test_state_continues_bit_for_bit():
    whole, parts = RunningStatistics(SHAPE, CHANNELS), RunningStatistics(SHAPE, CHANNELS)
    for seed in range(3):
        whole.update([latents(2, seed)])
    parts.update([latents(2, 0)])
    again = RunningStatistics(SHAPE, CHANNELS)
    again.load_state_dict(parts.state_dict())
    for seed in (1, 2):
        again.update([latents(2, seed)])
    assert all(torch.equal(a, b) for a, b in zip(whole.mean_std(), again.mean_std()))
