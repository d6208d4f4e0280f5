"""Clips of a window attend to each other: against a computation by hand, and what may not influence what."""

import pytest
import torch

from autoencoder.planes import PlaneShape
from latent_diffusion.cross_slot import CrossSlotAttention
from latent_diffusion.denoiser import LatentDenoiser, make_denoise
from latent_diffusion.guidance import Views, steered
from latent_diffusion.schedule import ScheduleConfig, level_at
from latent_diffusion.unet import PackedAttention, PlanesUNet, UNetConfig
from latent_diffusion.window import WindowContext

SMALL = dict(width=16, mult=(1, 2), res_blocks=1, attention=(2,), heads=4, zero_out=False)
SHAPE, FRAMES, CHANNELS = PlaneShape(3, 4, 2), 6, 3
LEVEL = level_at(ScheduleConfig(name="cosine"), 0.5)
T = torch.tensor([0.7, 0.2])


def make_net(shape=SHAPE, unet=None, **options):
    torch.manual_seed(0)
    condition = {"name": "window", "null_token": True, "history": True, **options}
    net = LatentDenoiser(UNetConfig(**SMALL | (unet or {})), condition, shape, CHANNELS, FRAMES).double().eval()
    for p in net.parameters():
        if not p.any():  # what is silent at first
            torch.nn.init.normal_(p, std=0.3)
    return net


def window(known, there=None, start=None, shape=SHAPE, batch=2, seed=1):
    """`known`: letters for each slot: all of it, a part, or nothing of it is known."""
    rng = torch.Generator().manual_seed(seed)
    slots = len(known)
    mask = torch.rand(batch, slots, FRAMES, generator=rng) < 0.5
    mask[:, :, 0], mask[:, :, 1] = True, False
    for i, kind in enumerate(known):
        mask[:, i] = {"all": True, "nothing": False}.get(kind, mask[:, i])
    latents = torch.randn(batch, slots, CHANNELS, shape.total, generator=rng, dtype=torch.float64)
    latents = latents * mask.any(-1)[:, :, None, None]
    start = 5.0 * torch.arange(slots) if start is None else torch.tensor(start)
    there = torch.ones(slots, dtype=torch.bool) if there is None else torch.tensor(there)
    return WindowContext(latents, mask & there[:, None], start.expand(batch, -1), there.expand(batch, -1))


def noisy(slots, shape=SHAPE, batch=2, seed=2):
    return torch.randn(batch, slots, CHANNELS, shape.total, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pick(context, order):
    return context._replace(**{key: getattr(context, key)[:, order] for key in ("latents", "known", "start", "there")})


MIXED = ("all", "part", "nothing", "all")


def test_shifting_all_positions_changes_nothing():
    net, context = make_net(), window(MIXED)
    moved = context._replace(start=context.start + 1000)
    assert torch.equal(net(noisy(4), T, context), net(noisy(4), T, moved))
    nearer = context._replace(start=context.start / 5)
    assert not torch.allclose(net(noisy(4), T, context), net(noisy(4), T, nearer))


@pytest.mark.parametrize("shape", [SHAPE, PlaneShape(3, 3, 3), PlaneShape(1, 4, 4), PlaneShape(6, 7, 3)])
@pytest.mark.parametrize("unet", [{}, {"mult": (1, 1, 2), "qk_norm": True, "canvas": True, "positional_norm": True}])
def test_known_slots_can_go_before_once(shape, unet):
    # What all slots together make of the targets, and what the targets alone make with the keys and values of the others.
    net, context = make_net(shape, unet), window(("all", "all", "part", "nothing"), shape=shape)
    context = net.condition.noised(context, torch.tensor([0.1, 0.4, 0.0, 0.0]), noisy(4, shape, seed=3))
    z = noisy(4, shape)
    together = net(z, T, context)[:, 2:]
    torch.testing.assert_close(net(z[:, 2:], T, context), together)
    prepared = net.prepare(context, z[:, 2:], keep=True)
    for t in (T, T / 2):
        assert torch.equal(net(z[:, 2:], t, prepared), net(z[:, 2:], t, context))


def test_sampling_sends_known_slots_through_the_network_once(monkeypatch):
    net, context, sizes = make_net().float(), window(("all", "all", "all", "part", "nothing")), []
    context = context._replace(latents=context.latents.float())
    conv_in, outs = net.unet.conv_in.forward, []
    monkeypatch.setattr(net.unet.conv_in, "forward", lambda x: (sizes.append(len(x)), conv_in(x))[1])
    net.unet.conv_out.register_forward_hook(lambda module, args, out: outs.append(len(args[0])))
    full, nothing = (make_denoise(net, "x0", seen) for seen in (context, net.condition.unseen(context)))
    denoise = steered(Views(full, nothing, full, nothing), 1.0, 0.0)
    for _ in range(3):
        denoise(noisy(2).float(), LEVEL)
    planes = len(net.unet.groups)
    assert sizes == [6] * planes + [4] * planes * 6  # the known slots of both samples; the targets, twice a step
    assert outs == [4] * planes * 6


def test_places_are_compared_once_a_window():
    net, context, calls = make_net().float(), window(("all", "part", "nothing")), []
    context = context._replace(latents=context.latents.float())
    layers = [module for module in net.modules() if isinstance(module, CrossSlotAttention)]
    for layer in layers:
        layer.place.register_forward_hook(lambda module, *_: calls.append(module))
    denoise = make_denoise(net, "x0", context)
    for _ in range(3):
        denoise(noisy(2).float(), LEVEL)
    for layer in layers:  # on hw and along time, of the known clip and of the others; it is done with at the last layer
        assert calls.count(layer.place) == (2 if layer is net.unet.up[-1].cross else 4)


def test_unseen_is_a_window_of_the_same_targets_of_which_nothing_is_known():
    net, context, x = make_net(), window(("all", "part", "nothing"), start=[30, 0, 11]), noisy(2)
    blank = net(x, T, window(("nothing", "nothing"), start=[0, 11]))
    torch.testing.assert_close(net(x, T, net.condition.unseen(context)), blank)
    assert not torch.allclose(net(x, T, context), blank)


def test_slots_in_another_order_make_the_same():
    net, context, z, t = make_net(), window(MIXED), noisy(4), torch.rand(2, 4)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(net(z[:, order], t[:, order], pick(context, order)), net(z, t, context)[:, order])


def test_padding_has_no_influence():
    net, z = make_net(), noisy(5)
    padded = window((*MIXED, "all"), there=[True] * 4 + [False])
    padded = padded._replace(latents=padded.latents.clone(), known=padded.known.clone())
    alone = net(z[:, :4], T, pick(padded, slice(4)))
    torch.testing.assert_close(net(z, T, padded)[:, :4], alone)
    padded.latents[:, 4], padded.known[:, 4] = 100.0, True
    torch.testing.assert_close(net(100 * z.flip(1), T, pick(padded, [4, 3, 2, 1, 0]))[:, 1:].flip(1),
                               net(100 * z[:, :4], T, pick(padded, slice(4))))
    first = pick(padded, [4, 0, 3, 1, 2])  # padding among those that go before
    torch.testing.assert_close(net(z[:, [1, 2]], T, first), alone[:, 1:3])


def test_known_slots_are_not_influenced_by_targets_nor_by_noise():
    net, context, z = make_net(), window(MIXED), noisy(4)
    known = [0, 3]
    out = net(z, T, context)
    assert torch.equal(net(-z, T + 0.1, context)[:, known], out[:, known])
    other = context._replace(latents=context.latents.clone(), known=context.known.clone())
    other.latents[:, 1:3] *= -1
    other.known[:, 1, 0] = False
    assert torch.equal(net(z, T, other)[:, known], out[:, known])
    assert not torch.allclose(net(z, T, other)[:, 1:3], out[:, 1:3])


def test_every_target_sees_every_other_slot():
    net, context, z = make_net(), window(MIXED), noisy(4)
    out = net(z, T, context)
    for other in range(4):
        changed, seen = z.clone(), context._replace(latents=context.latents.clone())
        changed[:, other] *= -1
        seen.latents[:, other] *= -1
        moved = ~torch.isclose(net(changed, T, seen), out).flatten(2).all(-1)  # b s
        assert moved[:, [1, 2]].all()
        assert moved[:, [i for i in (0, 3) if i != other]].eq(other in (0, 3)).all()


def test_a_slot_has_its_own_level():
    net, context, z = make_net(), window(("nothing", "nothing")), noisy(2)
    for module in net.modules():
        if isinstance(module, CrossSlotAttention):
            torch.nn.init.zeros_(module.out.weight)
            torch.nn.init.zeros_(module.out.bias)
    t = torch.tensor([[0.1, 0.9], [0.5, 0.5]])
    for slot in range(2):
        torch.testing.assert_close(net(z, t, context)[:, slot], net(z, t[:, slot], context)[:, slot])


def test_without_a_word_between_them_slots_are_samples_of_their_own():
    # A new model starts so; and norms and the attention over planes never join slots.
    net, context, z = make_net(), window(MIXED), noisy(4)
    for module in net.modules():
        if isinstance(module, CrossSlotAttention):
            torch.nn.init.zeros_(module.out.weight)
            torch.nn.init.zeros_(module.out.bias)
    alone = torch.cat([net(z[:, [i]], T, pick(context, [i])) for i in range(4)], 1)
    torch.testing.assert_close(net(z, T, context), alone)
    fresh = PlanesUNet(UNetConfig(**SMALL | {"zero_out": True}), SHAPE, CHANNELS, windows=True)
    layers = [module for module in fresh.modules() if isinstance(module, CrossSlotAttention)]
    assert len(layers) == sum(isinstance(module, PackedAttention) for module in fresh.modules())
    assert not any(layer.out.weight.any() or layer.out.bias.any() for layer in layers)


def test_samples_of_a_batch_do_not_meet():
    net, context, z = make_net(), window(MIXED), noisy(4)
    alone = [net(z[[i]], T[[i]], WindowContext(*(part[[i]] for part in context[:4]))) for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), net(z, T, context))


@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_reaches_every_parameter(recompute):
    net, context = make_net(unet={"grad_checkpoint": recompute}), window(MIXED)
    made = net(noisy(4), T, context)[:, 1:3]
    made.square().sum().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_checkpointing_changes_no_gradient():
    grads = []
    for recompute in (False, True):
        net = make_net(unet={"grad_checkpoint": recompute})
        net(noisy(4), T, window(MIXED)).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_autocast_reads_known_slots_as_it_does_each_time():
    net, context = make_net().float(), window(("all", "part"))
    context, z = context._replace(latents=context.latents.float()), noisy(1).float()
    denoise = make_denoise(net, "x0", context, autocast=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        anew = net(z, torch.full((2,), float(LEVEL.t)), context)
    for _ in range(2):
        assert torch.equal(denoise(z, LEVEL).x0, anew.float())


def test_only_windows_pay_for_windows():
    plain, wide = (PlanesUNet(UNetConfig(**SMALL), SHAPE, CHANNELS, windows=windows) for windows in (False, True))
    more = set(wide.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) <= set(wide.state_dict()) and all(".cross." in key for key in more)


@pytest.mark.parametrize("residual", [True, False])
def test_with_a_residual_a_silent_network_makes_the_filled_clip(residual):
    net, context = make_net(residual=residual, null_token=False), window(("all", "part", "nothing"))
    for p in net.unet.conv_out.parameters():
        torch.nn.init.zeros_(p)
    made = net(noisy(3), T, context)
    assert torch.equal(made, context.latents if residual else torch.zeros_like(made))
