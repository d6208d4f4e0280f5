import copy
import math

import pytest
import torch
from torch import nn

from tools.optim import OptimConfig, apply_update, gradient_norm, learning_rate, load_optimizer, make_optimizer


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule):
    cfg = OptimConfig(lr=0.1, warmup=10, schedule=schedule)
    rates = [learning_rate(s, cfg, 100) for s in range(10)]
    assert rates == pytest.approx([0.01 * (s + 1) for s in range(10)])
    assert learning_rate(10, cfg, 100) == pytest.approx(0.1)


def test_cosine_end_points_and_middle():
    cfg = OptimConfig(lr=0.1, warmup=20, schedule="cosine")
    assert learning_rate(60, cfg, 100) == pytest.approx(0.05)
    assert learning_rate(40, cfg, 100) == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))
    assert [learning_rate(s, cfg, 100) for s in (100, 500)] == pytest.approx([0, 0])
    assert learning_rate(99, cfg, 100) > 0  # the last update still moves


def test_constant_and_no_warm_up():
    cfg = OptimConfig(lr=0.1, warmup=0)
    assert {learning_rate(s, cfg, 10) for s in (0, 5, 9, 1000)} == {0.1}
    assert learning_rate(0, OptimConfig(lr=0.1, warmup=0, schedule="cosine"), 10) == 0.1


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"schedule": "cos"},
                                   {"clip_norm": 0.0}, {"warmup": -1}, {"eps": 0}, {"weight_decay": -1}])
def test_nonsense_is_refused_with_its_name(wrong):
    with pytest.raises(ValueError, match=f"optim.{next(iter(wrong))}"):
        OptimConfig(**wrong)


def test_only_matrices_decay_and_frozen_weights_stay():
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    net[2].requires_grad_(False)
    before = [p.clone() for p in net.parameters()]
    cfg = OptimConfig(lr=0.1, warmup=0, weight_decay=0.5)
    for p in net.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    apply_update(make_optimizer(net, cfg), net, cfg, 0, 10)
    factors = [1 - 0.1 * 0.5, 1, 1, 1, 1, 1]
    for p, old, factor in zip(net.parameters(), before, factors):
        torch.testing.assert_close(p.detach(), old * factor)


def test_first_adam_update_has_the_size_of_the_rate():
    # Adam's first update is lr * g / (|g| + eps), whatever the gradient's size: clipping does not change it.
    net, cfg = nn.Linear(4, 4), OptimConfig(lr=0.01, warmup=10, weight_decay=0, clip_norm=1e-3, eps=1e-16)
    before = net.weight.detach().clone()
    net.weight.grad = torch.randn(4, 4) * 1e3
    sign = net.weight.grad.sign()
    apply_update(make_optimizer(net, cfg), net, cfg, 4, 100)  # rate 0.01 * 5 / 10
    torch.testing.assert_close(before - net.weight.detach(), 0.005 * sign, rtol=1e-3, atol=1e-6)


def test_clipping_matches_torch_and_the_norm_is_the_one_before():
    def gradients(net):
        torch.manual_seed(0)
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        return net

    class Recorder(torch.optim.SGD):
        def step(self):
            self.seen = [p.grad.clone() for p in net.parameters()]

    net, other = gradients(nn.Linear(5, 5)), gradients(nn.Linear(5, 5))
    expected = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    torch.testing.assert_close(gradient_norm(net.parameters()), expected)
    optimizer = Recorder(net.parameters(), lr=1.0)
    cfg = OptimConfig(clip_norm=0.5)
    torch.testing.assert_close(apply_update(optimizer, net, cfg, 0, 10), expected)
    torch.testing.assert_close(optimizer.seen, [p.grad for p in other.parameters()])
    assert all(p.grad is None for p in net.parameters())
    gradients(net)
    apply_update(optimizer, net, OptimConfig(clip_norm=None), 0, 10)
    torch.testing.assert_close(gradient_norm(gradients(net).parameters()), expected)
    torch.testing.assert_close(optimizer.seen, [p.grad for p in net.parameters()], rtol=0, atol=0)


def test_without_gradients_the_norm_is_zero():
    assert gradient_norm(nn.Linear(2, 2).parameters()) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_is_named(value):
    net, cfg = nn.Sequential(*[nn.Linear(2, 2) for _ in range(3)]), OptimConfig(warmup=0)
    optimizer = make_optimizer(net, cfg)
    before = [p.clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.full_like(p, value)
    net[0].weight.grad.zero_()
    names = "0.bias, 1.weight, 1.bias and 2 more"
    with pytest.raises(FloatingPointError, match=f"step 12: the gradient of {names} is not finite"):
        apply_update(optimizer, net, cfg, 12, 100)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before))
    assert not optimizer.state


def test_a_non_finite_loss_is_named():
    net, cfg = nn.Linear(2, 2), OptimConfig()
    net.weight.grad = torch.ones(2, 2)
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan"):
        apply_update(make_optimizer(net, cfg), net, cfg, 3, 100, loss=torch.tensor(float("nan")))


def test_a_norm_beyond_float32_is_told_as_such():
    net, cfg = nn.Linear(2, 2), OptimConfig()
    net.weight.grad = torch.full((2, 2), 3e38)
    with pytest.raises(FloatingPointError, match="the gradient norm is inf"):
        apply_update(make_optimizer(net, cfg), net, cfg, 3, 100)


@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
def test_moments_of_another_memory_layout_continue_the_same_training(saved):
    """The fused update reads memory in order: a layout that differs would give each weight the moment of another."""
    cfg = OptimConfig(lr=0.1, warmup=0)
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    clips = torch.randn(3, 2, 3, 5, 5)

    def update(net, optimizer, step):
        net(clips[step]).square().sum().backward()
        apply_update(optimizer, net, cfg, step, 3)

    optimizer = make_optimizer(net, cfg)
    for step in range(2):
        update(net, optimizer, step)
    nets = [net, copy.deepcopy(net)]
    state = copy.deepcopy(optimizer.state_dict())
    for moments in state["state"].values():
        moments.update({name: v.clone(memory_format=saved) for name, v in moments.items() if v.ndim == 4})
    other = make_optimizer(nets[1], cfg)
    load_optimizer(other, state)
    for each, continued in zip(nets, (optimizer, other)):
        update(each, continued, 2)
    torch.testing.assert_close(nets[1].weight, nets[0].weight, rtol=0, atol=0)
