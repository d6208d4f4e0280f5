import pytest
import torch
from torch import nn

from tools.dry_run import Live, hollow, peak


def test_the_peak_is_what_is_alive_at_once():
    def run():
        a = torch.ones(1000)      # 4000
        b = a * 2                 # 8000 alive
        del a
        c = b.double()            # 4000 + 8000, the most
        del b
        return c[:10] + 1         # a part of it, and 80 bytes
    assert peak(run) == 12000


def test_views_and_what_was_there_before_cost_nothing():
    x = torch.ones(1000)
    assert peak(lambda: x.view(10, 100).t()[3]) == 0
    assert peak(lambda: x.add_(1)) == 0


def test_what_is_gone_is_given_back():
    with Live() as live:
        kept = torch.ones(10) * 2
        del kept
    assert (live.bytes, live.peak) == (0, 80)


@pytest.mark.parametrize("n", [1, 7])
def test_what_a_backward_pass_keeps(n):
    # relu keeps its output and the second product its input, which are one tensor; in the backward pass the gradient
    # of y, then that of the hidden values, and the two weights' are made.
    with hollow(lambda: nn.Sequential(nn.Linear(8, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False))) as net:
        x = torch.empty(n, 8)
        with Live() as live:
            y = net(x)
            assert live.bytes == 4 * n * (32 + 8)
            y.sum().backward()
            weights = 4 * 2 * 8 * 32
            assert live.bytes == weights + 4 * n * 8
        assert weights + 4 * n * 8 <= live.peak <= weights + 4 * n * (3 * 32 + 2 * 8) + 8


def test_weights_take_no_memory_and_operations_no_time():
    with hollow(lambda: nn.Linear(200_000, 100_000)) as net:  # 80 GB
        out = net(torch.empty(3, 200_000))
        assert out.shape == (3, 100_000) and peak(lambda: net(torch.empty(3, 200_000))) == 4 * 3 * 300_000


def test_layouts_and_buffers_are_those_of_the_net():
    def make():
        net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
        net[0].weight.requires_grad_(False)
        return net
    with hollow(make) as net:
        assert net[0].weight.is_contiguous(memory_format=torch.channels_last) and not net[0].weight.requires_grad
        assert net[1].running_mean.shape == (8,) and net[1].weight.requires_grad


def test_peaks_of_real_tensors_are_those_of_hollow_ones():
    def make():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3))

    def step(net):
        return peak(lambda: net(torch.ones(2, 3, 16, 16)).square().mean().backward())
    real = step(make())
    with hollow(make) as net:
        assert step(net) == real
