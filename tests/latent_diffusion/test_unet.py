"""The U-Net over planes: its invariances, any grid, and each option against what it promises."""

import pytest
import torch
from omegaconf import OmegaConf

from autoencoder.planes import Planes, PlaneShape, pack, unpack
from latent_diffusion.unet import PackedAttention, PlanesUNet, ResBlock, UNetConfig

SMALL = dict(width=16, mult=(1, 2), res_blocks=1, attention=(2,), heads=4, zero_out=False)
SHAPES = [(2, 4, 4), (3, 8, 6), (1, 4, 4), (5, 7, 3), (1, 1, 1), (4, 1, 5), (4, 4, 4), (3, 3, 5)]


def make_net(shape=(2, 4, 4), channels=3, in_channels=None, seed=0, **options):
    torch.manual_seed(seed)
    return PlanesUNet(UNetConfig(**SMALL | options), PlaneShape(*shape), channels, in_channels).double()


def noise(net, batch=2, channels=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, net.shape.total, generator=rng, dtype=torch.float64)


def silence_mixing(net):
    for module in net.modules():
        if isinstance(module, PackedAttention):
            torch.nn.init.zeros_(module.out.weight)
            torch.nn.init.zeros_(module.out.bias)
    return net


T = torch.tensor([3.0, 977.0])


@pytest.mark.parametrize("in_channels, millions", [(4, 528.3), (8, 528.3)])
def test_default_config_is_the_published_size(in_channels, millions):
    with torch.device("meta"):
        net = PlanesUNet(UNetConfig(), PlaneShape(16, 32, 32), 4, in_channels)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mult", [(1,), (1, 2), (1, 1, 2, 2)])
def test_any_grid_keeps_its_shape(shape, mult):
    net = make_net(shape, in_channels=5, mult=mult, attention=(1,), positions=True)
    out = net(noise(net, channels=5), T)
    assert out.shape == (2, 3, net.shape.total)
    assert out.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_of_equal_size_in_one_batch_change_nothing(shape):
    net = make_net(shape, positions=True)
    torch.nn.init.normal_(net.positions.weight)
    together = net(noise(net), T)
    net.groups = [[0], [1], [2]]
    torch.testing.assert_close(net(noise(net), T), together)


@pytest.mark.parametrize("plane", range(3))
def test_planes_meet_only_in_the_packed_attention(plane):
    net = make_net((3, 4, 5))
    planes = list(unpack(noise(net), net.shape))
    x = pack(Planes(*planes))
    planes[plane] = planes[plane].flip(-1)
    changed = pack(Planes(*planes))

    def moved():
        before, after = (unpack(net(latent, T), net.shape) for latent in (x, changed))
        return [not torch.allclose(a, b) for a, b in zip(before, after)]

    assert moved() == [True, True, True]
    silence_mixing(net)
    assert moved() == [i == plane for i in range(3)]


def test_the_same_weights_run_on_every_plane():
    net = make_net((3, 4, 4))
    hw, tw, th = unpack(noise(net), net.shape)
    out = unpack(net(pack(Planes(hw, tw, th)), T), net.shape)
    swapped = unpack(net(pack(Planes(hw, th, tw)), T), net.shape)
    for a, b in zip(swapped, (out.hw, out.th, out.tw)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", range(1, 10))
def test_up_undoes_the_grid_of_down(size):
    cfg = UNetConfig(**SMALL)
    down, up = (ResBlock(16, 16, 8, cfg, way) for way in ("down", "up"))
    pooled = down.resize(torch.arange(float(size)).expand(1, 16, 2, size), None)
    token = torch.arange(float((size + 1) // 2)).expand(1, 16, 1, -1)
    assert pooled.shape == token.shape
    raised = up.resize(token, (2, size))[0, 0, 0]
    torch.testing.assert_close(raised, (torch.arange(size) // 2).float())
    last = torch.arange(float(size))[(size - 1) // 2 * 2:].mean()
    assert pooled[0, 0, 0, -1] == last  # an odd last one is not mixed with padding


def test_samples_of_a_batch_do_not_meet():
    net = make_net()
    x = noise(net)
    both = net(x, T)
    torch.testing.assert_close(torch.cat([net(x[i:i + 1], T[i:i + 1]) for i in range(2)]), both)


def test_gradient_reaches_every_parameter():
    net = make_net((3, 8, 8), mult=(1, 2, 2), attention=(1, 2), positions=True, qk_norm=True)  # 2 tokens or more everywhere
    net(noise(net), T).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == []


def test_zero_out_starts_silent():
    net = make_net(zero_out=True)
    assert (net(noise(net), T) == 0).all()
    branches = [name for name, p in net.named_parameters() if (p == 0).all() and name.endswith("weight")]
    assert all(name.split(".")[-2] in ("conv2", "out", "conv_out") for name in branches)


@pytest.mark.parametrize("options", [{}, {"positions": True}, {"qk_norm": True, "dropout": 0.3}])
def test_checkpointing_changes_no_gradient(options):
    grads = []
    for recompute in (False, True):
        net = make_net(grad_checkpoint=recompute, **options)
        torch.manual_seed(5)
        net(noise(net), T).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_positions_are_silent_at_first_and_tell_planes_apart_later():
    shape = (4, 4, 4)
    plain, told = make_net(shape), make_net(shape, positions=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    flat = torch.ones(2, 3, plain.shape.total, dtype=torch.float64)
    torch.testing.assert_close(told(flat, T), plain(flat, T), rtol=0, atol=0)
    hw, tw, th = unpack(plain(flat, T), plain.shape)
    torch.testing.assert_close(hw, tw)
    torch.testing.assert_close(hw, th)
    torch.nn.init.normal_(told.positions.weight)
    hw, tw, th = unpack(told(flat, T), plain.shape)
    assert not torch.allclose(hw, tw) and not torch.allclose(tw, th)


def test_positions_do_not_depend_on_the_size():
    small, large = make_net((2, 3, 4), positions=True), make_net((5, 6, 7), positions=True)
    large.load_state_dict(small.state_dict())


def test_time_is_float_or_int_and_scaled():
    net, scaled = make_net(), make_net(time_scale=1000.0)
    x = noise(net)
    torch.testing.assert_close(net(x, T.long()), net(x, T))
    torch.testing.assert_close(scaled(x, T.double() / 1000), net(x, T))
    assert not torch.allclose(net(x, T + 1), net(x, T))


def test_extra_embedding_is_added():
    net = make_net()
    x = noise(net)
    extra = torch.zeros(2, net.emb_dim, dtype=torch.float64)
    torch.testing.assert_close(net(x, T, extra), net(x, T))
    extra[1] = 1.0
    out = net(x, T, extra)
    torch.testing.assert_close(out[0], net(x, T)[0])
    assert not torch.allclose(out[1], net(x, T)[1])


def test_autocast_stays_close():
    net = make_net((3, 4, 4)).float()
    x = noise(net).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(x, T)
    full = net(x, T)
    assert (low.float() - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("options, words", [
    (dict(width=15), "unet.width"), (dict(width=0), "unet.width"), (dict(mult=()), "unet.mult"),
    (dict(mult=(1, 0)), "unet.mult"), (dict(res_blocks=0), "unet.res_blocks"), (dict(heads=5), "unet.heads"),
    (dict(heads=0), "unet.heads"), (dict(norm_groups=-1), "unet.norm_groups"), (dict(dropout=1.0), "unet.dropout"),
    (dict(attention=(3,)), "unet.attention"), (dict(attention=(4,)), "unet.attention"),
])
def test_config_refuses_nonsense(options, words):
    with pytest.raises(ValueError, match=words):
        UNetConfig(**SMALL | options)


def test_config_comes_from_yaml():
    yaml = OmegaConf.create("{width: 32, mult: [1, 2], attention: [2]}")
    loaded = OmegaConf.merge(OmegaConf.structured(UNetConfig), yaml)
    assert OmegaConf.to_object(loaded) == UNetConfig(width=32, mult=(1, 2), attention=(2,))


def test_wrong_input_is_refused():
    net = make_net(in_channels=6)
    with pytest.raises(ValueError, match="takes 6 channels, got 3"):
        net(noise(net), T)
    with pytest.raises(ValueError, match="positions"):
        net(noise(net, channels=6)[..., :-1], T)


EXTRAS = {"positional_norm": True, "canvas": True}


@pytest.mark.parametrize("shape", SHAPES)
def test_extras_take_any_grid(shape):
    net = make_net(shape, in_channels=5, mult=(1, 1, 2), attention=(1,), **EXTRAS)
    assert net(noise(net, channels=5), T).isfinite().all()


def test_gradient_reaches_every_parameter_of_the_extras():
    net = make_net((3, 4, 4), **EXTRAS)
    net(noise(net), T).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_positional_norms_are_silent_at_first():
    plain, told = make_net(zero_out=True), make_net(zero_out=True, positional_norm=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    for net in (plain, told):
        torch.manual_seed(7)
        for name, p in net.named_parameters():
            if name.endswith(("conv2.weight", "conv_out.weight")):
                torch.nn.init.normal_(p)
    torch.testing.assert_close(told(noise(told), T), plain(noise(plain), T), rtol=0, atol=0)


def test_positional_norms_tell_planes_places_and_times():
    net = silence_mixing(make_net((4, 4, 4), positional_norm=True, mult=(1,), attention=()))
    flat = torch.ones(2, 3, net.shape.total, dtype=torch.float64)
    for p in net.time_embed.parameters():
        torch.nn.init.zeros_(p)  # the time arrives through the norms alone
    out = net(flat, T)
    assert not torch.allclose(out[0], out[1])
    hw, tw, th = unpack(out, net.shape)
    assert not torch.allclose(hw, tw) and not torch.allclose(tw, th)
    inner = hw[0, 0, 1:-1, 1:-1].unique().numel()
    assert inner == 4  # every place differs, also away from the border


def test_positional_norms_are_tied_to_no_batch_and_no_size():
    net = make_net((2, 4, 6), positional_norm=True)
    x = noise(net, batch=3)
    times = torch.tensor([1.0, 500.0, 999.0])
    together = net(x, times)
    for i in (1, 0, 2):
        torch.testing.assert_close(net(x[i:i + 1], times[i:i + 1])[0], together[i])
    other = make_net((5, 7, 3), positional_norm=True)
    other.load_state_dict(net.state_dict())
    assert other(noise(other), T).isfinite().all()


def test_a_blank_canvas_is_no_canvas():
    plain, told = make_net(in_channels=5), make_net(in_channels=5, canvas=True)
    weight = told.conv_in.weight.detach()[:, :5]
    plain.load_state_dict({key: weight if key == "conv_in.weight" else value for key, value in told.state_dict().items()
                           if key != "canvas"})
    x = noise(plain, channels=5)
    assert told.in_channels == 5 and not torch.allclose(told(x, T), plain(x, T))
    torch.nn.init.zeros_(told.canvas)
    torch.testing.assert_close(told(x, T), plain(x, T))


def test_a_canvas_is_what_more_channels_would_hold():
    wide, told = make_net(in_channels=8), make_net(in_channels=5, canvas=True)
    wide.load_state_dict({key: value for key, value in told.state_dict().items() if key != "canvas"})
    x = noise(told, channels=5)
    torch.testing.assert_close(told(x, T), wide(torch.cat([x, told.canvas.expand(2, -1, -1)], 1), T))
