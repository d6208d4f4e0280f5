import pytest
import torch
from torch import nn

from tools.ema import Ema, EmaConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 3)
        self.b = nn.Linear(2, 3)
        self.b.weight = self.a.weight  # tied
        self.norm = nn.BatchNorm1d(3)


def fill(net, value):
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(value)


@pytest.mark.parametrize("every", [1, 3])
def test_closed_form_without_warm_up(every):
    # From a to b, the average after n updates is b + (a - b) d^n; `every` must not change its horizon.
    net = fill(net := Net(), 1.0) or net
    ema = Ema(net, EmaConfig(decays=(0.9, 0.5), warmup=False, every=every))
    fill(net, 2.0)
    for step in range(6):
        ema.update(net, step)
    for decay in (0.9, 0.5):
        torch.testing.assert_close(ema.weights(decay)["a.weight"], torch.full((3, 2), 2 - decay**6))


def test_warm_up_follows_the_ramp():
    net = fill(net := Net(), 0.0) or net
    ema = Ema(net, EmaConfig(decays=(0.9999, 0.15), warmup=True))
    expected = {0.9999: 0.0, 0.15: 0.0}
    for step in range(20):
        fill(net, float(step))
        ema.update(net, step)
        for decay in expected:
            d = min(decay, (1 + step) / (10 + step))
            expected[decay] = d * expected[decay] + (1 - d) * step
    for decay, value in expected.items():
        torch.testing.assert_close(ema.weights(decay)["b.bias"], torch.full((3,), value))


def test_weights_are_a_state_dict_with_the_net_s_own_buffers():
    net = Net()
    ema = Ema(net, EmaConfig(decays=(0.5,), warmup=False))
    net.norm(torch.randn(8, 3))
    fill(net, 4.0)
    ema.update(net, 0)
    other = Net()
    other.load_state_dict(ema.weights())
    assert ema.weights().keys() == net.state_dict().keys()
    torch.testing.assert_close(other.norm.running_mean, net.norm.running_mean)
    assert other.norm.num_batches_tracked == 1
    torch.testing.assert_close(other.a.weight, ema.weights()["b.weight"])


def test_applied_swaps_and_restores_exactly_also_after_an_error():
    net = Net()
    ema = Ema(net, EmaConfig(decays=(0.9, 0.5), warmup=False))
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    ema.update(net, 0)
    own = {k: v.clone() for k, v in net.state_dict().items()}
    places = [p.data_ptr() for p in net.parameters()]
    for decay in (None, 0.5):
        with pytest.raises(KeyError), ema.applied(net, decay) as same:
            assert same is net
            torch.testing.assert_close(net.state_dict(), ema.weights(decay), rtol=0, atol=0)
            assert not torch.equal(net.a.weight, own["a.weight"])
            raise KeyError
        torch.testing.assert_close(net.state_dict(), own, rtol=0, atol=0)
    assert places == [p.data_ptr() for p in net.parameters()]  # compiled graphs and optimizers hold them


def test_small_changes_are_not_lost_in_a_half_precision_net():
    net = nn.Linear(1, 1, bias=False).bfloat16()
    fill(net, 1.0)
    ema = Ema(net, EmaConfig(decays=(0.9999,), warmup=False))
    fill(net, 2.0)
    for step in range(1000):
        ema.update(net, step)
    (copy,) = ema.state_dict()["0.9999"].values()
    assert copy.dtype == torch.float32 and copy.item() == pytest.approx(2 - 0.9999**1000, rel=1e-4)
    assert ema.weights()["weight"].dtype == torch.bfloat16


def test_state_round_trip_is_exact_and_strict():
    net, cfg = Net(), EmaConfig(decays=(0.9, 0.5))
    ema = Ema(net, cfg)
    fill(net, 3.0)
    ema.update(net, 0)
    again = Ema(Net(), cfg)
    again.load_state_dict(ema.state_dict())
    torch.testing.assert_close(again.state_dict(), ema.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"ema.decays"):
        Ema(Net(), EmaConfig(decays=(0.9,))).load_state_dict(ema.state_dict())
    with pytest.raises(ValueError, match="another network"):
        Ema(nn.Linear(2, 2), cfg).load_state_dict(ema.state_dict())


@pytest.mark.parametrize("wrong", [{"decays": ()}, {"decays": (1.0,)}, {"decays": (0.9, 0.9)}, {"every": 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=f"ema.{next(iter(wrong))}"):
        EmaConfig(**wrong)


def test_an_unknown_decay_is_refused():
    net = Net()
    with pytest.raises(ValueError, match=r"no average with decay 0.7; ema.decays has 0.9999"):
        Ema(net, EmaConfig()).weights(0.7)
