"""The condition in the normalisations: what it says, and what it is without a word."""

import pytest
import torch

from autoencoder.planes import Planes, PlaneShape, pack, unpack
from latent_diffusion.condition import CONDITIONS, Context
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.modulation import Adapt, HintSpec
from latent_diffusion.unet import PackedAttention, PlanesUNet, ResBlock, UNetConfig

UNET = dict(width=16, mult=(1, 2), res_blocks=1, attention=(2,), heads=4, zero_out=False)
SHAPE, FRAMES = PlaneShape(3, 4, 5), 6
PLACES = ("past", "self", "future")


def make_net(**options):
    torch.manual_seed(0)
    condition = {"name": "spade", "sees": PLACES, "mask": True, "dim": 8}
    return LatentDenoiser(UNetConfig(**UNET | options), condition, SHAPE, 3, FRAMES).double()


def context(batch=2, k=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return Context(torch.randn(batch, k, 3, SHAPE.total, dtype=torch.float64, generator=rng),
                   torch.rand(batch, k, FRAMES, generator=rng) < 0.5)


def latent(batch=2, seed=2):
    return torch.randn(batch, 3, SHAPE.total, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


T = torch.tensor([3.0, 977.0])


def test_it_says_in_the_norms_what_concat_says_on_the_channels():
    form, given = make_net().condition, context()
    concat = CONDITIONS.bind({"name": "concat", "sees": PLACES, "mask": True})(SHAPE, 3, FRAMES)
    assert torch.equal(form.hint(given), concat.beside(given))
    assert form.beside(given) is None and form.in_channels == 3
    assert form.hint_spec == HintSpec("spade", concat.in_channels - 3, 8)


def as_affine(net, weights):
    """Let every Adapt say, whatever the condition, the (weight, bias) of the plain normalisation in its place."""
    for name, module in net.named_modules():
        if isinstance(module, Adapt):
            block, place = name.rsplit(".adapt.", 1)
            weight, bias = (weights[f"{block}.norm{int(place) + 1}.{what}"] for what in ("weight", "bias"))
            torch.nn.init.zeros_(module.out.weight)
            module.out.bias.data = torch.cat([weight - 1, bias])


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_constant_word_is_the_affine_normalisation(spread):
    # With spread 0, where the last layer is all zeros, it is the network without a condition.
    torch.manual_seed(3)
    plain, told = PlanesUNet(UNetConfig(**UNET), SHAPE, 3).double(), make_net()
    for module in plain.modules():
        if isinstance(module, ResBlock):
            for norm in (module.norm1, module.norm2):
                torch.nn.init.normal_(norm.weight, 1, spread)
                torch.nn.init.normal_(norm.bias, 0, spread)
    left = told.unet.load_state_dict(plain.state_dict(), strict=False)
    assert all(".adapt." in key for key in left.missing_keys) and all(".norm" in key for key in left.unexpected_keys)
    as_affine(told.unet, plain.state_dict())
    torch.testing.assert_close(told(latent(), T, context()), plain(latent(), T))


def test_every_norm_hears_the_condition_at_the_size_of_its_grid():
    net, given, inputs, grids = make_net(mult=(1, 1, 2)), context(), {}, {}
    for name, module in net.unet.named_modules():
        if isinstance(module, ResBlock):
            for i, norm in enumerate((module.norm1, module.norm2)):
                for where, part in ((inputs, module.adapt[i]), (grids, norm)):
                    heard = where.setdefault((name, i), [])
                    part.register_forward_hook(lambda module, args, out, heard=heard: heard.append(args[0]))
    net(latent(), T, given)
    sheets = [[plane] for plane in unpack(net.condition.hint(given), SHAPE)]  # three sizes, none alike
    for sizes in sheets:
        for _ in range(2):
            sizes.append(torch.nn.functional.avg_pool2d(sizes[-1], 2, ceil_mode=True))
    assert inputs.keys() == grids.keys()
    for key, heard in inputs.items():
        for i in range(3):
            wanted = [size for size in sheets[i] if size.shape[-2:] == grids[key][i].shape[-2:]]
            torch.testing.assert_close(heard[i], wanted[0])


def test_zero_out_starts_without_a_word():
    told = make_net(zero_out=True)
    adapts = [module for module in told.modules() if isinstance(module, Adapt)]
    blocks = [module for module in told.modules() if isinstance(module, ResBlock)]
    assert len(adapts) == 2 * len(blocks) > 0
    for scale, shift in (adapt(torch.randn(1, 12, 2, 2, dtype=torch.float64)) for adapt in adapts):
        assert (scale == 1).all() and (shift == 0).all()


def test_every_block_hears_it_in_both_norms():
    net, z, given = make_net(), latent(), context()
    full = net(z, T, given)
    for module in [module for module in net.modules() if isinstance(module, Adapt)]:
        kept = module.out.weight.detach().clone()
        torch.nn.init.zeros_(module.out.weight)
        assert not torch.allclose(net(z, T, given), full)
        module.out.weight.data = kept
    torch.testing.assert_close(net(z, T, given), full)


@pytest.mark.parametrize("plane", range(3))
def test_a_plane_hears_what_is_on_it(plane):
    net, z, given = make_net(), latent(), context()
    for module in net.modules():
        if isinstance(module, PackedAttention):  # where the planes meet
            torch.nn.init.zeros_(module.out.weight)
            torch.nn.init.zeros_(module.out.bias)
    latents = torch.stack([pack(Planes(*(p + 1.0 * (i == plane) * torch.arange(p.shape[-1]) for i, p in enumerate(
        unpack(row, SHAPE))))) for row in given.latents])
    before, after = (unpack(net(z, T, seen), SHAPE) for seen in (given, given._replace(latents=latents)))
    assert [not torch.allclose(a, b) for a, b in zip(before, after)] == [i == plane for i in range(3)]


@pytest.mark.parametrize("shape", [(2, 4, 4), (5, 7, 3), (1, 1, 1), (4, 1, 5), (4, 4, 4)])
def test_any_grid(shape):
    shape = PlaneShape(*shape)
    condition = {"name": "spade", "sees": ["past"], "mask": True}
    net = LatentDenoiser(UNetConfig(**UNET | {"mult": (1, 1, 2)}), condition, shape, 3, 2 * shape.t)
    given = Context(torch.randn(2, 1, 3, shape.total), torch.rand(2, 1, 2 * shape.t) < 0.5)
    assert net(torch.randn(2, 3, shape.total), T, given).isfinite().all()


def test_samples_of_a_batch_do_not_meet():
    net, z, given = make_net(), latent(), context()
    alone = [net(z[i:i + 1], T[i:i + 1], Context(given.latents[i:i + 1], given.known[i:i + 1])) for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), net(z, T, given))


def test_checkpointing_changes_no_gradient():
    grads = []
    for recompute in (False, True):
        net = make_net(grad_checkpoint=recompute)
        net(latent(), T, context()).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


@pytest.mark.parametrize("options, words", [({"sees": []}, r"nothing to look at"), ({"dim": 0}, r"condition\.dim")])
def test_nonsense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        CONDITIONS.bind({"name": "spade", **options})(SHAPE, 3, FRAMES)
