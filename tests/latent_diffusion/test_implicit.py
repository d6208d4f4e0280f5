"""Motion as a condition: what is compared, and where it arrives."""

import itertools
import math

import pytest
import torch

from autoencoder.planes import PlaneShape, unpack
from latent_diffusion.condition import CONDITIONS, Context
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.implicit import correlation
from latent_diffusion.unet import UNetConfig

SHAPE, FRAMES = PlaneShape(2, 6, 7), 4


def condition(**options):
    torch.manual_seed(0)
    return CONDITIONS.bind({"name": "implicit", "dim": 8, **options})(SHAPE, 3, FRAMES)


def context(k=3, batch=2):
    rng = torch.Generator().manual_seed(1)
    return Context(torch.randn(batch, k, 3, SHAPE.total, generator=rng), torch.ones(batch, k, FRAMES, dtype=torch.bool))


def test_correlation_is_the_product_at_every_displacement():
    a, b = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    out = correlation(a, b, 1)
    for (y, x), (dy, dx) in itertools.product(itertools.product(range(4), range(5)), itertools.product((-1, 0, 1), repeat=2)):
        inside = 0 <= y + dy < 4 and 0 <= x + dx < 5
        wanted = (a[:, :, y, x] * b[:, :, y + dy, x + dx]).sum(1) / math.sqrt(3) if inside else torch.zeros(2).double()
        torch.testing.assert_close(out[:, 3 * (dy + 1) + dx + 1, y, x], wanted)


@pytest.mark.parametrize("dy, dx", [(0, 0), (1, -2), (-2, 2)])
def test_what_moved_is_found_where_it_went(dy, dx):
    a = torch.randn(1, 64, 12, 12, generator=torch.Generator().manual_seed(0))
    b = a.roll((dy, dx), (2, 3))  # what was at (y, x) is at (y + dy, x + dx)
    best = correlation(a, b, 2).argmax(1)[0, 2:-2, 2:-2]
    assert best.unique().tolist() == [5 * (dy + 2) + dx + 2]


def test_nothing_joins_the_channels_and_every_place_is_seen():
    form, given = condition(sees=["anchor", "past", "self", "future"]), context(4)
    assert form.beside(given) is None and form.in_channels == 3
    plain = form.hint(given)
    for place in range(4):
        latents = given.latents.clone()
        latents[:, place] += torch.randn_like(latents[:, place])
        planes = zip(unpack(plain, SHAPE), unpack(form.hint(given._replace(latents=latents)), SHAPE))
        assert not any(torch.allclose(a, b) for a, b in planes)
        known = given.known.clone()
        known[:, place] = False
        assert not torch.allclose(form.hint(given._replace(known=known)), plain)


def test_motion_is_from_the_anchor_to_the_past():
    form, given = condition(), context()
    torch.nn.init.zeros_(form.join[0].weight[:, 25:])  # all but the motion
    plain = form.hint(given)
    for place, told in enumerate([True, True, False]):
        latents = given.latents.clone()
        latents[:, place] = latents[:, place].flip(-1)
        assert torch.equal(form.hint(given._replace(latents=latents)), plain) != told
    back = given._replace(latents=given.latents[:, [1, 0, 2]])
    assert not torch.allclose(form.hint(back), plain)


def test_it_brings_positional_norms_with_it():
    cfg = UNetConfig(width=16, mult=(1,), res_blocks=1, attention=(), heads=2, zero_out=False)
    net = LatentDenoiser(cfg, {"name": "implicit", "dim": 8}, SHAPE, 3, FRAMES)
    given, z, t = context(), torch.randn(2, 3, SHAPE.total), torch.tensor([3.0, 900.0])
    other = given._replace(latents=given.latents.flip(1))  # the motion the other way
    blocks = [block for name, block in net.named_modules() if name.endswith("positional")]
    assert blocks and not torch.allclose(net(z, t, given), net(z, t, other))
    for block in blocks:
        torch.nn.init.zeros_(block.motion.weight)
    net.mask_embed = None
    assert torch.equal(net(z, t, given), net(z, t, other))


@pytest.mark.parametrize("options, words", [({"sees": ["past"]}, "anchor to the past"), ({"radius": -1}, "radius"),
                                            ({"dim": 0}, r"condition\.dim")])
def test_nonsense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        condition(**options)
