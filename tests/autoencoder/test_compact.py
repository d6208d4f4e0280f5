"""The compact autoencoder at small sizes: shapes, refusals, and that it learns."""

import dataclasses
import math

import pytest
import torch

from autoencoder.compact import AxisPool, CompactAutoencoder
from autoencoder.model import AutoencoderConfig, build_autoencoder

SMALL = AutoencoderConfig(arch="compact", channels=16, frames=4, resolution=[8, 12], patch=4, latent_channels=3,
                          depth=2, heads=2, head_dim=8, tanh=False, options={"fine_channels": 8, "fine_depth": 1})


def small(seed: int = 0, **changes) -> CompactAutoencoder:
    torch.manual_seed(seed)
    options = SMALL.options | changes.pop("options", {})
    return build_autoencoder(dataclasses.replace(SMALL, options=options, **changes))


def clip_for(net, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, *net.config.clip_shape) * 2 - 1


@pytest.mark.parametrize("changes, grid", [
    ({}, (4, 2, 3)), ({"frames": 1}, (1, 2, 3)), ({"frames": 7}, (7, 2, 3)), ({"patch": 2}, (4, 4, 6)),
    ({"frames": 6, "options": {"time_patch": 2}}, (3, 2, 3)), ({"frames": 3, "options": {"time_patch": 3}}, (1, 2, 3)),
    ({"in_channels": 1, "latent_channels": 5}, (4, 2, 3)),
    ({"options": {"fine_depth": 0, "plane_depth": 0}}, (4, 2, 3))])
def test_any_size_encodes_and_decodes(changes, grid):
    net = small(**changes)
    clip = clip_for(net)
    latent = net.encode(clip)
    t, h, w = grid
    assert latent.shape == (2, net.config.latent_channels, h * w + t * w + t * h)
    assert net.shape.total == latent.shape[-1]
    assert net.decode(latent).shape == clip.shape


def test_clips_of_a_batch_do_not_mix():
    net = small().double()
    clip = clip_for(net, batch=3).double()
    torch.testing.assert_close(net(clip).clip[1:2], net(clip[1:2]).clip)


def test_each_plane_reaches_every_frame_row_and_column():
    net = small()
    latent = torch.randn(1, 3, net.shape.total)
    made = net.decode(latent)
    for part in latent.split(net.shape.sizes, dim=-1):
        old = part.clone()
        part.add_(torch.randn_like(part))  # a view of latent
        assert (net.decode(latent) - made).abs().amin(dim=(0, 1)).min() > 0
        part.copy_(old)


def test_noise_is_added_between_encoder_and_decoder():
    net = small()
    clip, noise = clip_for(net), torch.randn(2, 3, net.shape.total)
    made = net(clip, noise)
    torch.testing.assert_close(made.latent, net.encode(clip))
    torch.testing.assert_close(made.clip, net.decode(made.latent + noise))


def test_tanh_bounds_the_latent():
    bounded, free = small(tanh=True), small()
    clip = clip_for(free)
    torch.testing.assert_close(bounded.encode(clip), free.encode(clip).tanh())


def test_pooling_is_a_mean_where_scores_are_equal():
    pool = AxisPool(6, heads=2)
    torch.nn.init.zeros_(pool.score.weight)
    volume = torch.randn(2, 3, 4, 5, 6)
    for axis in (1, 2, 3):
        torch.testing.assert_close(pool(volume, axis), pool.value(volume.mean(axis)))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_pooling_is_the_weighted_mean_of_the_values(axis):
    torch.manual_seed(0)
    pool, volume = AxisPool(6, heads=2).double(), torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    weight = pool.score(volume).softmax(axis).repeat_interleave(3, dim=-1)  # of a channel's group
    torch.testing.assert_close(pool(volume, axis), (weight * pool.value(volume)).sum(axis))


@pytest.mark.parametrize("frames", [1, 4])
def test_gradient_reaches_every_parameter(frames):
    net = small(frames=frames)
    net(clip_for(net)).clip.square().mean().backward()
    # one number added to all scores of a pool changes no weight: the true gradient of their bias is zero
    lost = [name for name, p in net.named_parameters()
            if not name.endswith("score.bias") and (p.grad is None or not p.grad.abs().sum() > 0)]
    # a pool along one frame has nothing to choose: its scores get no gradient
    assert [name for name in lost if not (frames == 1 and name.startswith("pools.hw.score"))] == []


def test_gradient_checkpoints_change_nothing():
    net = small()
    clip, grads = clip_for(net), []
    for net.grad_checkpoint in (False, True):
        net.zero_grad()
        net(clip).clip.square().mean().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("changes, words", [
    ({"frames": 5, "options": {"time_patch": 2}}, "frames 5 cannot be cut into time_patch 2"),
    ({"patch": 1}, "odd patch 1"), ({"heads": 3}, "channels 16 .* multiple such as 18"),
    ({"options": {"fine_channels": 0}}, "fine_channels"), ({"options": {"time_patc": 2}}, "time_patch")])
def test_impossible_sizes_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        small(**changes)


def test_foreign_clips_and_latents_are_refused():
    net = small()
    with pytest.raises(ValueError, match="this autoencoder takes clips"):
        net.encode(torch.zeros(1, 3, 5, 8, 12))
    with pytest.raises(ValueError, match="latent has 9 positions"):
        net.decode(torch.zeros(1, 3, 9))


def test_it_learns_one_clip():
    net = small()
    t, h, w = (torch.linspace(0, 1, n) for n in net.config.clip_shape[1:])
    wave = torch.sin(2 * math.pi * (t[:, None, None] + h[:, None] - w))
    clip = torch.stack([wave, -wave, wave**2])[None]
    optimizer, errors = torch.optim.Adam(net.parameters(), 3e-3), []
    for _ in range(60):
        loss = (net(clip).clip - clip).square().mean()
        errors.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert errors[-1] < errors[0] / 5
