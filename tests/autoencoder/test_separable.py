"""The separable autoencoder at small sizes: shapes, refusals, what mixes with what, and that it learns."""

import dataclasses

import pytest
import torch

from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.separable import OWN_GAIN, POSITION_GAIN, PositionLinear, SeparableAutoencoder, SeparableBlock

SMALL = AutoencoderConfig(arch="separable", channels=16, frames=4, resolution=[8, 12], patch=4, latent_channels=3, depth=2,
                          heads=2, tanh=False)


def small(seed: int = 0, **changes) -> SeparableAutoencoder:
    torch.manual_seed(seed)
    return build_autoencoder(dataclasses.replace(SMALL, **changes))


def clip_for(net, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, *net.config.clip_shape) * 2 - 1


@pytest.mark.parametrize("changes, grid", [
    ({}, (4, 2, 3)), ({"frames": 1}, (1, 2, 3)), ({"frames": 7}, (7, 2, 3)), ({"patch": 1}, (4, 8, 12)),
    ({"in_channels": 1, "latent_channels": 5}, (4, 2, 3)),
    ({"depth": 6, "options": {"expand": 1, "kernel": 3}}, (4, 2, 3))])
def test_any_size_encodes_and_decodes(changes, grid):
    net = small(**changes)
    clip = clip_for(net)
    latent = net.encode(clip)
    t, h, w = grid
    assert latent.shape == (2, net.config.latent_channels, h * w + t * w + t * h)
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


def test_a_block_sees_the_nearest_tokens_in_space_and_time():
    torch.manual_seed(0)
    block, volume = SeparableBlock(6, t=5, expand=2, kernel=3), torch.randn(2, 5, 6, 7, 6)
    other = volume.clone()
    other[0, 2, 3, 4] += 1
    with torch.no_grad():
        changed = (block(other) - block(volume)).abs().amax(-1) > 1e-6
    expected = torch.zeros_like(changed)
    expected[0, 1:4, 2:5, 3:6] = True
    assert torch.equal(changed, expected)


def test_a_position_linear_layer_is_one_matrix_for_each_position():
    torch.manual_seed(0)
    layer, x = PositionLinear(5, 3, 4), torch.randn(2, 5, 3)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))  # shared at the start
    torch.nn.init.normal_(layer.own)
    expected = [x[:, n] @ (layer.weight.T + OWN_GAIN * layer.own[n]) + layer.bias for n in range(5)]
    torch.testing.assert_close(layer(x), torch.stack(expected, 1))


def test_a_pixel_stays_where_it_was():
    # A background that alone is not zero is the clip that decoding makes: its patches must lie as the encoder cut them.
    net = small()
    clip = clip_for(net, batch=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight.copy_(torch.randn_like(net.embed.weight))
        patches = []
        hook = net.embed.register_forward_pre_hook(lambda _, args: patches.append(args[0]))
        net.encode(clip[:, :, :1].expand_as(clip))
        hook.remove()
        net.background.copy_(patches[0][0, 0] / POSITION_GAIN)
        made = net.decode(torch.zeros(1, 3, net.shape.total))
    torch.testing.assert_close(made, clip[:, :, :1].expand_as(clip))


def test_a_scene_is_learned_ten_times_as_fast_as_a_weight():
    net = small()
    before = net.decode(torch.zeros(1, 3, net.shape.total)).detach()
    optimizer = torch.optim.Adam([net.background], lr=1e-3)
    net.decode(torch.zeros(1, 3, net.shape.total)).sum().backward()
    optimizer.step()
    moved = before - net.decode(torch.zeros(1, 3, net.shape.total))
    torch.testing.assert_close(moved, torch.full_like(moved, 10 * 1e-3), rtol=1e-3, atol=1e-6)


def test_noise_is_added_between_encoder_and_decoder():
    net = small()
    clip, noise = clip_for(net), torch.randn(2, 3, net.shape.total)
    made = net(clip, noise)
    torch.testing.assert_close(made.clip, net.decode(net.encode(clip) + noise))


def test_tanh_bounds_the_latent():
    bounded, free = small(tanh=True), small()
    clip = clip_for(free)
    torch.testing.assert_close(bounded.encode(clip), free.encode(clip).tanh())


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


def test_under_autocast_the_pixels_keep_their_precision():
    net = small()
    with torch.autocast("cpu", torch.bfloat16):
        made = net(clip_for(net))
    assert made.clip.dtype == made.latent.dtype == torch.float32


@pytest.mark.parametrize("changes, words", [
    ({"heads": 3}, "channels 16 .* multiple such as 18"), ({"options": {"kernel": 4}}, "kernel odd, got 2 and 4"),
    ({"options": {"expand": 0}}, "expand"),
    ({"options": {"expands": 2}}, "expands")])
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
    wave = torch.sin(6.283 * (t[:, None, None] + h[:, None] - w))
    clip = torch.stack([wave, -wave, wave**2])[None]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (net(clip).clip - clip).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < clip.var() / 50
