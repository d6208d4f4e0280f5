"""What reaches the network of what is known."""

import pytest
import torch
from fakes import diffusion_config

from autoencoder.planes import PlaneShape, pack, unpack
from latent_diffusion.condition import CONDITIONS, OFFSETS, Context, mask_planes

SHAPE, CHANNELS, FRAMES = PlaneShape(2, 3, 4), 5, 4  # a time row stands for two frames


def condition(**options):
    return CONDITIONS.bind({"name": "concat", **options})(SHAPE, CHANNELS, FRAMES)


def context(k, batch=2):
    return Context(torch.randn(batch, k, CHANNELS, SHAPE.total), torch.rand(batch, k, FRAMES) < 0.5)


def test_pvdms_form_is_the_latent_beside_the_past():
    z, past = torch.randn(2, 2, CHANNELS, SHAPE.total)
    form = condition()
    assert form.in_channels == 2 * CHANNELS
    given = Context(past[:, None], torch.ones(2, 1, FRAMES, dtype=torch.bool))
    assert torch.equal(form(z, given), torch.cat([z, past], 1))
    assert torch.equal(form(z, None), torch.cat([z, torch.zeros_like(z)], 1))


def test_no_condition_is_the_latent_alone():
    z = torch.randn(2, CHANNELS, SHAPE.total)
    for mask in (False, True):
        form = condition(sees=[], mask=mask)
        assert form.in_channels == CHANNELS and form.span == 1 and form.target == 0
        assert torch.equal(form(z, None), z)


def test_mask_planes_tell_the_share_of_known_frames():
    known = torch.rand(3, 2, FRAMES) < 0.5
    planes = unpack(mask_planes(known, SHAPE), SHAPE)
    assert planes.tw.shape == (3, 2, SHAPE.t, SHAPE.w)
    for b, k in ((0, 0), (1, 1), (2, 0)):
        frames = known[b, k].float()
        assert planes.hw[b, k].eq(frames.mean()).all()
        for row in range(SHAPE.t):
            share = frames[2 * row:2 * row + 2].mean()
            assert planes.tw[b, k, row].eq(share).all() and planes.th[b, k, row].eq(share).all()


def test_where_a_row_is_a_frame_masks_are_0_and_1():
    shape, known = PlaneShape(4, 1, 2), torch.tensor([[[True, False, False, True]]])
    planes = unpack(mask_planes(known, shape), shape)
    assert planes.th[0, 0, :, 0].tolist() == [1, 0, 0, 1]
    assert planes.hw.unique().tolist() == [0.5]


def test_all_places_stand_in_the_order_of_time_with_their_masks():
    form, z, given = condition(sees=["future", "past", "self"], mask=True), torch.randn(2, CHANNELS, SHAPE.total), context(3)
    assert form.sees == ("past", "self", "future")
    out = form(z, given)
    assert out.shape == (2, form.in_channels, SHAPE.total)
    assert torch.equal(out[:, :CHANNELS], z)
    places = out[:, CHANNELS:].unflatten(1, (3, CHANNELS + 1))
    assert torch.equal(places[:, :, :CHANNELS], given.latents)
    assert torch.equal(places[:, :, CHANNELS], mask_planes(given.known, SHAPE))


def test_nothing_known_is_told_from_a_zero_latent_by_the_mask_alone():
    z = torch.randn(2, CHANNELS, SHAPE.total)
    zero = Context(torch.zeros(2, 1, CHANNELS, SHAPE.total), torch.ones(2, 1, FRAMES, dtype=torch.bool))
    assert torch.equal(condition()(z, zero), condition()(z, None))
    assert not torch.equal(condition(mask=True)(z, zero), condition(mask=True)(z, None))


@pytest.mark.parametrize("sees, span, target", [((), 1, 0), (("past",), 2, 1), (("future",), 2, 0), (("self",), 1, 0),
                                                (("past", "self", "future"), 3, 1)])
def test_training_windows_hold_the_target_and_its_neighbours(sees, span, target):
    form = condition(sees=sees, mask=True)
    assert (form.span, form.target) == (span, target)
    assert all(0 <= form.target + OFFSETS[place] < form.span for place in form.sees)


def test_what_can_be_known_in_part_needs_the_mask():
    with pytest.raises(ValueError, match=r"condition\.mask=true"):
        condition(sees=["past", "self"])
    assert condition(sees=["past", "self"], mask=True).bits == 2 * FRAMES and condition().bits == 0


def test_unknown_places_are_refused():
    with pytest.raises(ValueError, match=r"'before'.*past, self, future"):
        condition(sees=["before"])


def test_planes_are_packed_as_latents_are():
    known = torch.rand(1, 1, FRAMES) < 0.5
    planes = unpack(mask_planes(known, SHAPE), SHAPE)
    assert torch.equal(pack(planes), mask_planes(known, SHAPE))


def test_a_residual_network_starts_as_the_filled_clip():
    form, given = condition(sees=["past", "self"], mask=True, residual=True), context(2)
    assert torch.equal(form.base(given), given.latents[:, 1])
    assert form.base(None) == 0.0 and condition(sees=["past", "self"], mask=True).base(given) == 0.0
    assert condition(sees=["past"], mask=True, residual=True).base(context(1)) == 0.0


def test_a_residual_needs_x0():
    with pytest.raises(ValueError, match="parametrisation=x0"):
        diffusion_config("condition={name: concat, sees: [past, self], mask: true, residual: true}")
