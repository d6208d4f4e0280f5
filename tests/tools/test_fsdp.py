"""Sharded nets, averages and optimizers, with two processes, are in test_dist.py."""

import pytest
import torch
from torch import nn

from tools import fsdp


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(2, 3)
        self.trunk = nn.ModuleList([nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 3)])])
        self.inner = nn.ModuleDict({"a": nn.Sequential(nn.Linear(3, 3), nn.ModuleList([nn.Tanh(), nn.ReLU()]))})
        self.register_buffer("table", torch.randn(3), persistent=False)


def test_blocks_are_the_entries_of_the_outermost_lists():
    net = Net()
    assert fsdp.blocks(net) == [*net.trunk, *net.inner["a"][1]]


def test_a_copy_without_weights_is_filled_with_others():
    net, other = Net(), Net()
    net.plain = (fsdp._without_weights(net),)
    assert all(p.is_meta for p in net.plain[0].parameters()) and not any(p.is_meta for p in net.parameters())
    copy = fsdp.whole_copy(net.eval(), other.state_dict())
    torch.testing.assert_close(copy.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert torch.equal(copy.table, net.table) and not copy.training
    assert all(p.is_meta for p in net.plain[0].parameters()), "it serves again"


def test_the_copy_is_no_part_of_the_net():
    net = Net()
    names = list(net.state_dict())
    net.plain = (fsdp._without_weights(net),)
    assert list(net.state_dict()) == names and len(list(net.modules())) == len(list(Net().modules()))


def test_what_is_whole_stays_as_it_is():
    x = torch.randn(2)
    assert fsdp.local(x) is x and fsdp.placed_like(x, torch.zeros(2)) is x
    assert fsdp.gathered({"x": x})["x"] is x and not fsdp.is_sharded(x) and not fsdp.is_sharded(nn.Linear(1, 1))


def test_an_old_torch_is_told(monkeypatch):
    monkeypatch.setattr(fsdp, "fully_shard", None)
    with pytest.raises(ValueError, match=r"dist.strategy=fsdp needs torch 2.6 or newer, got .*; use dist.strategy=ddp"):
        fsdp.shard(nn.Linear(1, 1), torch.device("cpu"))
