"""What reaches the network of what is known."""

import json

import pytest
import torch
from fakes import diffusion_config, diffusion_stage, micro, video

from autoencoder.planes import PlaneShape, pack, unpack
from latent_diffusion.condition import CONDITIONS, OFFSETS, Context, mask_planes
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.modelfile import load_net
from latent_diffusion.unet import UNetConfig

SHAPE, CHANNELS, FRAMES = PlaneShape(2, 3, 4), 5, 4  # a time row stands for two frames
PLACES = ("past", "self", "future")


def condition(**options):
    return CONDITIONS.bind({"name": "concat", **options})(SHAPE, CHANNELS, FRAMES)


def context(k, batch=2):
    return Context(torch.randn(batch, k, CHANNELS, SHAPE.total), torch.rand(batch, k, FRAMES) < 0.5)


def shown(z, given, **options):
    """What the network is shown of a noisy latent and a context: the input of its U-Net."""
    unet = UNetConfig(width=8, mult=(1,), res_blocks=1, attention=(), heads=2)
    net, inputs = LatentDenoiser(unet, {"name": "concat", **options}, SHAPE, CHANNELS, FRAMES), []
    net.unet.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    net(z, torch.full((len(z),), 0.5), given)
    assert inputs[0].shape == (len(z), net.condition.in_channels, SHAPE.total)
    return inputs[0]


def test_pvdms_form_is_the_latent_beside_the_past():
    z, past = torch.randn(2, 2, CHANNELS, SHAPE.total)
    given = Context(past[:, None], torch.ones(2, 1, FRAMES, dtype=torch.bool))
    assert torch.equal(shown(z, given), torch.cat([z, past], 1))
    assert torch.equal(shown(z, None), torch.cat([z, torch.zeros_like(z)], 1))


def test_no_condition_is_the_latent_alone():
    z = torch.randn(2, CHANNELS, SHAPE.total)
    for mask in (False, True):
        form = condition(sees=[], mask=mask)
        assert form.in_channels == CHANNELS and form.span == 1 and form.target == 0
        assert torch.equal(shown(z, None, sees=[], mask=mask), z)


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
    places, z, given = ["future", "past", "self"], torch.randn(2, CHANNELS, SHAPE.total), context(3)
    assert condition(sees=places, mask=True).sees == ("past", "self", "future")
    out = shown(z, given, sees=places, mask=True)
    assert torch.equal(out[:, :CHANNELS], z)
    places = out[:, CHANNELS:].unflatten(1, (3, CHANNELS + 1))
    assert torch.equal(places[:, :, :CHANNELS], given.latents)
    assert torch.equal(places[:, :, CHANNELS], mask_planes(given.known, SHAPE))


def test_nothing_known_is_told_from_a_zero_latent_by_the_mask_alone():
    z = torch.randn(2, CHANNELS, SHAPE.total)
    zero = Context(torch.zeros(2, 1, CHANNELS, SHAPE.total), torch.ones(2, 1, FRAMES, dtype=torch.bool))
    assert torch.equal(shown(z, zero), shown(z, None))
    assert not torch.equal(shown(z, zero, mask=True), shown(z, None, mask=True))


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


def test_an_anchor_lies_two_clips_before():
    form = condition(sees=["anchor", "past"], mask=True)
    assert (form.sees, form.span, form.target) == (("anchor", "past"), 3, 2)
    with pytest.raises(ValueError, match="gap between the anchor and the clip"):
        condition(sees=["anchor", "self"], mask=True)


def some_absent():
    """Four samples: all known in part, only the past, nothing, only the future."""
    known = torch.zeros(4, 3, FRAMES, dtype=torch.bool)
    known[0, :, 1] = known[1, 0, 2] = known[3, 2, :] = True
    latents = torch.randn(4, 3, CHANNELS, SHAPE.total)
    absent = torch.tensor([[False] * 3, [False, False, True], [True] * 3, [True, False, False]])
    latents[absent] = 0.0
    return Context(latents, known), absent


@pytest.mark.parametrize("name", ["concat", "spade"])
def test_null_tokens_stand_where_and_only_where_nothing_is_seen(name):
    # The clip itself holds the nearest known frame of any place, so it is absent only where nothing is known at all.
    form, (given, absent) = condition(name=name, sees=PLACES, mask=True, null_token=True), some_absent()
    assert torch.equal(form.absent(given.known), absent)
    torch.nn.init.normal_(form.null_token)
    seen = form.observed(given)
    assert torch.equal(seen[:, :, CHANNELS], mask_planes(given.known, SHAPE))
    assert torch.equal(seen[:, :, :CHANNELS][~absent], given.latents[~absent])
    for b, k in absent.nonzero().tolist():
        for i, plane in enumerate(unpack(seen[b:b + 1, k, :CHANNELS], SHAPE)):
            assert torch.equal(plane, form.null_token[k, :, i, None, None].expand_as(plane[0])[None])


@pytest.mark.parametrize("name", ["concat", "spade"])
def test_null_tokens_learn_from_what_is_absent(name):
    form, (given, absent) = condition(name=name, sees=PLACES, mask=True, null_token=True), some_absent()
    form.observed(Context(given.latents[:1], given.known[:1])).sum().backward()
    assert form.null_token.grad is None or not form.null_token.grad.any()
    form.observed(given).sum().backward()
    counts = absent.sum(0)[:, None, None] * torch.tensor(SHAPE.sizes)  # of positions that show each token
    assert torch.equal(form.null_token.grad, counts.expand_as(form.null_token).float())


def test_pvdms_form_has_no_null_token():
    assert list(condition().parameters()) == []
    with pytest.raises(ValueError, match=r"condition\.null_token=true needs condition\.mask=true"):
        condition(null_token=True)
    with pytest.raises(ValueError, match=r"something in condition\.sees"):
        condition(sees=[], mask=True, null_token=True)


def test_noised_latents_keep_their_variance_and_absent_ones_stay():
    form, (given, absent) = condition(sees=PLACES, mask=True, history=True), some_absent()
    level, noise = torch.rand(4, 3), torch.randn(given.latents.shape)
    out = form.noised(given, level, noise)
    assert torch.equal(out.known, given.known) and not out.level[absent].any() and not out.latents[absent].any()
    assert torch.equal(out.level[~absent], level[~absent])
    s = level[:, :, None, None]
    torch.testing.assert_close(out.latents[~absent], ((1 - s**2).sqrt() * given.latents + s * noise)[~absent])
    assert torch.equal(form.noised(given, 0.0, noise).latents, given.latents)
    torch.testing.assert_close(form.noised(given, 1.0, noise).latents[~absent], noise[~absent])


def test_noise_needs_a_model_that_is_told_and_a_level():
    given, _ = some_absent()
    with pytest.raises(ValueError, match=r"condition\.history=true"):
        condition(sees=PLACES, mask=True).noised(given, 0.1, torch.zeros_like(given.latents))
    with pytest.raises(ValueError, match=r"lies in 0\.\.1, got 1\.5"):
        condition(sees=PLACES, mask=True, history=True).noised(given, 1.5, torch.zeros_like(given.latents))
    with pytest.raises(ValueError, match="that can be noisy"):
        condition(sees=[], history=True)


# What every condition owes, as soon as it is registered.

OWN = {"concat": {"sees": ["past"], "mask": True}, "spade": {"sees": ["past"], "mask": True}, "implicit": {"mask": True},
       "window": {"slots": 2, "overlap": 0, "fewer": 0.0}}
ALL = {"sees": ["anchor", *PLACES], "mask": True, "null_token": True}
NEIGHBOURS = [name for name in CONDITIONS if name != "window"]  # those that make one clip at a time


def toy_stage(name, **options):
    """A stage whose target is a function of what is seen: every clip is the one before it."""
    options = {"name": name, **(options or OWN[name])}
    target = condition(**options).target if name in NEIGHBOURS else 1  # the clips before it are known
    small = ("unet.mult=[1]", "unet.attention=[1]", "process.parametrisation=x0", "optim.lr=3e-3", "optim.warmup=0")
    return diffusion_stage(diffusion_config(*small, f"condition={json.dumps(options)}",
                                            f"mask={{name: fixed, known: 0-{4 * target - 1}}}"))


def still(stage, step, batch=8):
    return video(batch, 4, (2, 2), 1, seed=step).repeat(1, stage.net.condition.span, 1, 1, 1)


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_learns_what_the_target_is_a_function_of(name):
    stage, index = toy_stage(name), torch.arange(8)
    losses = []
    for step in range(60):
        batch = micro(still(stage, step), index + 8 * step, 8)
        losses.append(float(stage.train_step(step, batch, 8)["loss"]))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    example = stage.prepare(still(stage, 100), index, "validate")
    seen = {key: getattr(example.context, key).roll(1, 0) for key in ("latents", "known")}  # of another sample
    other = example._replace(context=example.context._replace(**seen))
    with torch.no_grad():
        right, wrong = (stage.losses(stage.net, seen, index, "validate").mean() for seen in (example, other))
    assert wrong > 1.5 * right


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_makes_videos_and_comes_back_from_its_file(name, tmp_path):
    stage = toy_stage(name, **(ALL if name in NEIGHBOURS else {"slots": 3, "null_token": True}))
    for p in stage.net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    stage.export(1, tmp_path, "last")
    frames, known = video(2, 11, (2, 2), 1), torch.zeros(11, dtype=torch.bool)
    known[[0, 1, 5, 10]] = True
    net = load_net(tmp_path / "model_last.pth", "raw")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), stage.net.parameters(), strict=True))
    stage.net.eval()
    made, alone = (stage.as_model(1).complete(frames[:n], known, steps=2) for n in (2, 1))
    assert torch.equal(made[:, known], frames[:, known]) and (made[:, ~known] != frames[:, ~known]).any()
    assert (made[:1].int() - alone.int()).abs().max() <= 1


@pytest.mark.parametrize("name", NEIGHBOURS)
@pytest.mark.parametrize("options", [{}, {"null_token": True}, {"residual": True}])
def test_every_condition_of_one_clip_declares_its_window_and_its_input(name, options):
    form = condition(name=name, sees=["anchor", *PLACES], mask=True, **options)
    given, beside = context(4), form.beside(context(4))
    assert (form.span, form.target, form.bits) == (4, 2, 4 * FRAMES)
    assert form.in_channels == CHANNELS + (0 if beside is None else beside.shape[1])
    hint = form.hint(given)
    assert (hint is None) == (form.hint_spec is None)
    assert hint is None or hint.shape == (2, form.hint_spec.channels, SHAPE.total)
    assert form.residual == ("residual" in options)
