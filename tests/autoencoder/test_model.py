"""The autoencoder at small sizes: shapes, what its outputs depend on, and refusals."""

import dataclasses

import pytest
import torch
from omegaconf import OmegaConf

from autoencoder.blocks import Attention, Pool, frame_rotary, grid_rotary, rotate
from autoencoder.model import ARCHITECTURES, AutoencoderConfig, build_autoencoder
from autoencoder.planes import pack, unpack

SMALL = AutoencoderConfig(channels=16, frames=3, resolution=[8, 12], patch=4, depth=2, heads=2, head_dim=8,
                          options={"projection_mlp": 16, "projection_heads": 2})


def small(seed: int = 0, **changes):
    torch.manual_seed(seed)
    return build_autoencoder(dataclasses.replace(SMALL, **changes)).double().eval()


def clip_for(net, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, *net.config.clip_shape, dtype=torch.float64) * 2 - 1


def test_published_size_has_the_published_parameters():
    with torch.device("meta"):
        net = build_autoencoder(AutoencoderConfig())
    assert net.shape.total == 2048
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 62.06


@pytest.mark.parametrize("changes", [{}, {"frames": 1}, {"resolution": 12}, {"resolution": [15, 9], "patch": 3},
                                     {"patch": 1, "resolution": [3, 2]}, {"in_channels": 1, "latent_channels": 5}])
def test_any_size_encodes_and_decodes(changes):
    net = small(**changes)
    clip = clip_for(net)
    latent = net.encode(clip)
    assert latent.shape == (2, net.config.latent_channels, net.shape.total)
    assert latent.abs().max() < 1
    made = net.decode(latent)
    assert made.shape == clip.shape and made.abs().max() < 1


def test_without_tanh_latents_are_the_inverse_tanh():
    bounded, free = small(), small(tanh=False)
    free.load_state_dict(bounded.state_dict())
    clip = clip_for(bounded)
    torch.testing.assert_close(free.encode(clip).tanh(), bounded.encode(clip))


def test_noise_is_added_between_encoder_and_decoder():
    net = small()
    clip, noise = clip_for(net), torch.randn(2, 4, net.shape.total, dtype=torch.float64)
    made = net(clip, noise)
    torch.testing.assert_close(made.latent, net.encode(clip))
    torch.testing.assert_close(made.clip, net.decode(made.latent + noise))


def test_clips_of_a_batch_do_not_mix():
    net = small()
    clip = clip_for(net, 3)
    torch.testing.assert_close(net.encode(clip)[1:2], net.encode(clip[1:2]))


@pytest.mark.parametrize("released", [False, True])
def test_each_plane_changes_the_volume_along_its_own_axes_only(released):
    net = small(options={**SMALL.options, "released": released})
    planes = unpack(torch.randn(1, 4, net.shape.total, dtype=torch.float64), net.shape)
    before = net.spread(planes)
    for plane, axes in zip(planes, ((2, 3), (1, 3), (1, 2))):  # of b t h w c
        plane[..., 1, 1] += 1
        changed = (net.spread(planes) - before).abs().amax((0, 4)) > 1e-9  # t h w
        index: list = [slice(None)] * 3
        index[axes[0] - 1] = index[axes[1] - 1] = 1
        expected = torch.zeros_like(changed)
        expected[tuple(index)] = True
        assert torch.equal(changed, expected)
        before = net.spread(planes)


def test_pooled_planes_keep_the_axes_they_are_named_by():
    # With the places of a volume marked along one axis, only the planes that keep this axis vary along it.
    net = small()
    volume = torch.zeros(1, *dataclasses.astuple(net.shape), 16, dtype=torch.float64)
    marked = volume + torch.randn(1, 1, 1, net.shape.w, 16, dtype=torch.float64)
    hw, tw, th = net.project(marked)
    assert hw.std(dim=3).min() > 1e-6 and tw.std(dim=3).min() > 1e-6
    for plane in (hw.std(dim=2), tw.std(dim=2), th.std(dim=2), th.std(dim=3)):
        assert plane.max() < 1e-12


def test_reading_the_query_sees_no_order_without_positions():
    pool = Pool(5, 16, depth=2, heads=2, hidden=16).double()
    torch.nn.init.zeros_(pool.position)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(pool(x), pool(x.flip(1)))
    pool.read = 0  # the released position is the first token's own, so that it sees its order
    assert (pool(x) - pool(x.flip(1))).abs().max() > 1e-3


def test_released_option_changes_no_parameter():
    ours, theirs = small(), small(options={**SMALL.options, "released": True})
    theirs.load_state_dict(ours.state_dict())
    assert (ours.encode(clip := clip_for(ours)) - theirs.encode(clip)).abs().max() > 1e-4


@pytest.mark.parametrize("index", [0, 2, -1])
def test_attention_at_one_position_equals_all(index):
    attention = Attention(16, 2, 8).double()
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(attention.forward_one(x, index)[:, 0], attention(x)[:, index])


def test_frame_rotary_depends_on_distance_alone():
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    table = frame_rotary(6, 8)
    scores = rotate(q.expand(6, 8), table) @ rotate(k.expand(6, 8), table).T  # t t
    for shift in range(1, 5):
        torch.testing.assert_close(scores[shift:, shift:], scores[:-shift, :-shift])
    released = frame_rotary(6, 8, paired=False)
    scores = rotate(q.expand(6, 8), released, False) @ rotate(k.expand(6, 8), released, False).T
    assert (scores[1:, 1:] - scores[:-1, :-1]).abs().max() > 1e-3


def test_grid_rotary_depends_on_distance_alone():
    h, w = 3, 4
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)
    table = grid_rotary(h, w, 8)
    scores = (rotate(q.expand(h * w, 8), table) @ rotate(k.expand(h * w, 8), table).T).reshape(h, w, h, w)
    torch.testing.assert_close(scores[1:, 1:, 1:, 1:], scores[:-1, :-1, :-1, :-1])


def test_one_complex_product_equals_the_real_rotation():
    x, table = torch.randn(2, 6, 8, dtype=torch.float64), frame_rotary(6, 8)
    torch.testing.assert_close(rotate(x, table), rotate(x, table, paired=False))


@pytest.mark.parametrize(("limit", "gradients"), [("PIECE", False), ("CUDA_BATCH", True)])
def test_pieces_give_the_same_numbers(monkeypatch, limit, gradients):
    net = small()
    clip = clip_for(net)
    whole = net(clip)
    monkeypatch.setattr(f"autoencoder.blocks.{limit}", 4)
    with torch.set_grad_enabled(gradients):
        pieces = net(clip)
    torch.testing.assert_close(pieces.clip, whole.clip)
    torch.testing.assert_close(pieces.latent, whole.latent)


def test_gradient_checkpointing_changes_no_gradient():
    net = small()
    clip = clip_for(net)

    def gradients():
        net.zero_grad()
        net(clip).clip.square().mean().backward()
        return [p.grad.clone() for p in net.parameters()]

    plain = gradients()
    net.grad_checkpoint = True
    assert net.grad_checkpoint
    for saved, kept in zip(gradients(), plain):
        torch.testing.assert_close(saved, kept)


def test_every_parameter_learns():
    net = small()
    net(clip_for(net)).clip.square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []



def test_autocast_leaves_latents_and_pixels_in_full_precision():
    net = small().float()
    clip = clip_for(net).float()
    exact = net(clip)
    with torch.autocast("cpu", torch.bfloat16):
        made = net(clip)
    assert made.latent.dtype == made.clip.dtype == torch.float32
    torch.testing.assert_close(made.clip, exact.clip, rtol=0, atol=0.05)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"resolution": 10, "patch": 4}, "10x10 is not a multiple of patch 4; .*: 8x8, 12x12"),
    ({"resolution": [8, 13], "patch": 4}, "8x13 is not a multiple of patch 4; .*: 8x12, 8x16"),
    ({"resolution": 3, "patch": 4}, "3x3 is not a multiple"),
    ({"resolution": "large"}, "whole number or"),
    ({"resolution": 0.5}, "whole number or"),
    ({"resolution": [8, 8, 8]}, "whole number or"),
    ({"frames": 0}, "frames must be at least 1, got 0"),
    ({"channels": 18}, "18 cannot be split over projection_heads 2; .* such as 20"),
    ({"head_dim": 6}, "multiple of 4"),
    ({"arch": "pvmd"}, 'did you mean "pvdm"'),
    ({"options": {"projection_head": 2}}, 'did you mean "projection_heads"'),
])
def test_sizes_that_cannot_work_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        small(**changes)


def test_a_clip_of_another_size_is_refused():
    net = small()
    with pytest.raises(ValueError, match="c t h w = 3x3x8x12, got 2x3x2x8x12"):
        net.encode(clip_for(net)[:, :, :2])
    with pytest.raises(ValueError, match="latent has"):
        net.decode(torch.zeros(1, 4, 3, dtype=torch.float64))


def test_config_survives_yaml():
    schema = OmegaConf.structured(AutoencoderConfig)
    written = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(SMALL))))
    assert OmegaConf.to_object(OmegaConf.merge(schema, written)) == SMALL


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_every_architecture_keeps_the_interface(arch):
    torch.manual_seed(0)
    config = AutoencoderConfig(arch=arch, channels=16, frames=4, resolution=[16, 32], patch=8, depth=1, heads=2,
                               head_dim=8)
    net = build_autoencoder(config)
    clip = clip_for(net).float()
    made = net(clip)
    assert net.config == config
    assert made.latent.shape == (2, config.latent_channels, net.shape.total)
    assert made.clip.shape == clip.shape
    torch.testing.assert_close(pack(unpack(made.latent, net.shape)), made.latent)
    assert any(p is net.last_weight for p in net.parameters())
