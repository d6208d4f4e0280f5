"""Losses against closed forms, and independence of how a batch is cut."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from autoencoder.losses import (
    AdaptiveWeight,
    Lecam,
    LossConfig,
    adaptive_weight,
    critic_hinge,
    feature_matching,
    generator_hinge,
    gradient_penalty,
    layer_gradient,
    pixel_error,
    ramp,
    take_frames,
)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind, truth", [
    ("l1", 2.0), ("l2", 4.0), ("charbonnier", math.sqrt(4 + 1e-6) - 1e-3)])
def test_pixel_error_of_a_constant_offset(kind, truth):
    clip = randn(2, 3, 4, 5, 6)
    assert pixel_error(clip + 2, clip, kind=kind).mean().item() == pytest.approx(truth, rel=1e-5)


def test_charbonnier_is_smooth_where_l1_is_not():
    clip = torch.zeros(1, 1, 1, 2, 2, requires_grad=True)
    pixel_error(clip, torch.zeros_like(clip), kind="charbonnier").mean().backward()
    assert torch.equal(clip.grad, torch.zeros_like(clip))


@pytest.mark.parametrize("cut", [[1] * 6, [2, 4], [5, 1]])
def test_micro_batches_add_up_to_the_batch(cut):
    recon, clip = randn(6, 3, 2, 4, 4), randn(6, 3, 2, 4, 4, seed=1)
    parts = [pixel_error(r, c).mean(samples=6) for r, c in zip(recon.split(cut), clip.split(cut))]
    torch.testing.assert_close(sum(parts), (recon - clip).abs().mean())


def test_take_frames():
    clip = torch.arange(2 * 5).view(2, 1, 5, 1, 1).expand(2, 3, 5, 2, 2)
    frames = take_frames(clip, torch.tensor([[0, 4], [3, 3]]))
    assert frames.shape == (4, 3, 2, 2) and frames[:, 0, 0, 0].tolist() == [0, 4, 8, 8]


def test_ramp():
    assert [ramp(s, 2, 4) for s in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp(s, 2, 0) for s in (1, 2)] == [0, 1]


def test_hinge_is_flat_beyond_the_margin():
    real, fake = torch.tensor([[2.0, 0.0]]), torch.tensor([[-3.0, 0.0]])
    assert critic_hinge(real, fake).mean() == 0.5  # (0 + 1)/4 + (0 + 1)/4
    assert generator_hinge(fake).mean() == 1.5


def test_feature_matching_leaves_the_real_side_alone():
    real = [randn(2, 4, 3, 3).requires_grad_(), randn(2, 8).requires_grad_()]
    fake = [r.detach() + offset for r, offset in zip(real, (1.0, 2.0))]
    fake = [f.requires_grad_() for f in fake]
    loss = feature_matching(real, fake).mean()
    assert loss.item() == pytest.approx(3.0, rel=1e-5)
    loss.backward()
    assert all(r.grad is None for r in real) and all(f.grad is not None for f in fake)


def test_gradient_penalty_of_a_linear_critic_is_its_squared_norm():
    weight = randn(12).double().requires_grad_()
    clip = randn(3, 12).double().requires_grad_()
    penalty = gradient_penalty((clip @ weight)[:, None], clip)
    torch.testing.assert_close(penalty.total, weight.square().sum().expand(3).float())
    penalty.mean().backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("side", [8, 16])
def test_gradient_penalty_is_independent_of_frame_size(side):
    conv = nn.Conv2d(1, 1, 4, stride=4)
    frames = randn(2, 1, side, side).requires_grad_()
    penalty = gradient_penalty(conv(frames), frames)
    assert penalty.mean().item() == pytest.approx(conv.weight.square().sum().item(), rel=1e-5)


def test_lecam_pulls_towards_the_other_side():
    lecam = Lecam()
    real, fake = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    assert lecam.penalty(real, fake).mean() == 0
    lecam.update(1.0, -0.5)
    assert lecam.penalty(real, fake).mean() == 2.5**2 + 2.0**2
    assert lecam.penalty(torch.tensor([[-1.0]]), torch.tensor([[3.0]])).mean() == 0


def test_lecam_state_continues():
    whole, first, second = Lecam(), Lecam(), Lecam()
    for x in (1.0, 2.0, 3.0):
        whole.update(x, -x)
    for x in (1.0, 2.0):
        first.update(x, -x)
    second.load_state_dict(first.state_dict())
    second.update(3.0, -3.0)
    assert second.state_dict() == whole.state_dict()


def test_adaptive_weight_balances_gradients():
    weight = randn(5).requires_grad_()
    target = randn(5, seed=1)
    rec, gan = (weight - target).square().sum(), 3e-1 * (weight * target).sum()
    grads = layer_gradient(rec, weight), layer_gradient(gan, weight)
    balance = adaptive_weight(*grads, limit=1e4)
    assert (balance * grads[1]).norm().item() == pytest.approx(grads[0].norm().item(), rel=1e-3)
    assert adaptive_weight(*grads, limit=0.5) == 0.5
    assert adaptive_weight(grads[0], torch.zeros(5), limit=7.0) == 7.0


def test_adaptive_weight_starts_at_zero_and_continues():
    state, copy = AdaptiveWeight(10.0), AdaptiveWeight(10.0)
    assert state() == 0
    state.update(torch.tensor([4.0]), torch.tensor([2.0]))
    assert state() == pytest.approx(2.0, rel=1e-3)
    copy.load_state_dict(state.state_dict())
    for each in (state, copy):
        each.update(torch.tensor([1.0]), torch.tensor([1.0]))
    assert copy() == state() < 2


def test_config_survives_omegaconf():
    keys = OmegaConf.from_dotlist(["perceptual_weight=0", "critic_clip_norm=null"])
    cfg = OmegaConf.merge(OmegaConf.structured(LossConfig), keys)
    assert OmegaConf.to_object(cfg) == LossConfig(perceptual_weight=0.0, critic_clip_norm=None)


@pytest.mark.parametrize("wrong", [
    {"pixel": "huber"}, {"weight_mode": "fixed"}, {"perceptual_weight": -1.0}, {"r1_every": 0},
    {"critic_lr": 0.0}, {"adaptive_max": math.inf}, {"critic_clip_norm": 0.0},
    {"pixel_weight": 0.0, "perceptual_weight": 0.0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=f"loss.{next(iter(wrong))}"):
        LossConfig(**wrong)
