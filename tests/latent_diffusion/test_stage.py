"""The second stage's update: what is known, what is the target, and the same for every cut of a batch."""

import copy

import pytest
import torch
from fakes import diffusion_config, diffusion_stage, micro, video

from autoencoder.fill import fill_missing
from latent_diffusion.gamma import shaped_noise
from latent_diffusion.masks import MASKS
from latent_diffusion.process import add_noise, target
from latent_diffusion.schedule import training_level
from tools import checkpoint
from tools.rng import batch_rand, batch_randn
from tools.video import to_clip

T = 4
INDEX = torch.tensor([3, 40, 5, 60, 7, 80, 9, 10])
LINEAR = ("optim.eps=1e-3", "optim.lr=1e-2", "optim.warmup=0", "process.parametrisation=x0")


def make_stage(*overrides, mask="{name: pvdm, rate: 0.7}", sees="[past]"):
    small = ("unet.mult=[1]", "unet.attention=[1]", "train.sample_steps=1")
    return diffusion_stage(diffusion_config(*small, f"mask={mask}", f"condition.sees={sees}", *overrides))


def windows(clips=2, batch=8, seed=0):
    return video(batch, clips * T, (2, 2), 1, seed=seed)


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_with_the_first_clip_known_the_second_is_the_target():
    stage, frames = make_stage(mask="{name: pvdm, rate: 1.0}"), windows()
    example = stage.prepare(frames, INDEX)
    clip = to_clip(frames)
    assert torch.equal(example.latent, stage.codec.encode(clip[:, :, T:]))
    assert torch.equal(example.context.latents[:, 0], stage.codec.encode(clip[:, :, :T]))
    assert example.context.known.all()


def test_with_nothing_known_the_target_starts_anywhere():
    stage = make_stage(mask="{name: none}")
    numbers = (torch.arange(2 * T) * 20).to(torch.uint8)[None, :, None, None, None].expand(1000, -1, 2, 2, 1)
    example = stage.prepare(numbers, torch.arange(1000))
    assert not example.context.known.any() and not example.context.latents.any()
    shown = ((stage.codec.decode(example.latent)[:, 0, :, 0, 0] + 1) * 127.5 / 20).round().long()  # which frame
    first = shown[:, :1]
    assert torch.equal(shown, first + torch.arange(T))
    starts, counts = first.unique(return_counts=True)
    assert starts.tolist() == list(range(T + 1)) and counts.min() > 150  # of 200


def test_known_and_unknown_rows_are_told_apart():
    stage, frames = make_stage(), windows(batch=64)
    index = torch.arange(64)
    known = stage.examples.draw_masks(2 * T, index, "train")
    example = stage.prepare(frames, index)
    rows = known.any(1)
    assert 0.5 < rows.float().mean() < 0.9
    assert torch.equal(example.context.known[:, 0], known[:, :T])
    wanted = stage.codec.encode(to_clip(frames[:, :T]))
    assert torch.equal(example.context.latents[rows, 0], wanted[rows]) and not example.context.latents[~rows].any()


def test_partly_known_clips_are_filled_from_the_nearest():
    stage, frames = make_stage(mask="{name: prefix}"), windows(batch=32)
    index = torch.arange(32)
    known = stage.examples.draw_masks(2 * T, index, "train")
    example = stage.prepare(frames, index)
    clip, rows = to_clip(frames), known.any(1)
    filled = stage.codec.encode(fill_missing(clip[:, :, :T], known[:, :T]))
    assert torch.equal(example.context.latents[rows, 0], filled[rows])
    assert torch.equal(example.latent[rows], stage.codec.encode(clip[:, :, T:])[rows])
    assert {int(k) for k in known.sum(1)} == set(range(2 * T))


def test_places_lie_before_at_and_after_the_target(monkeypatch):
    stage, frames = make_stage("condition.mask=true", sees="[past, self, future]"), windows(3)
    known = torch.arange(3 * T) % 3 == 0
    monkeypatch.setattr(stage.examples, "mask", {"name": "fixed", "known": ",".join(map(str, range(0, 3 * T, 3)))})
    example = stage.prepare(frames, INDEX)
    clip = to_clip(frames)
    assert torch.equal(example.latent, stage.codec.encode(clip[:, :, T:2 * T]))
    for place in range(3):
        span = slice(place * T, (place + 1) * T)
        seen = known[span].expand(8, -1)
        assert torch.equal(example.context.known[:, place], seen)
        filled = fill_missing(clip[:, :, span], seen)
        if place == 1:  # the clip itself is filled from its neighbours, too
            filled = fill_missing(clip, known.expand(8, -1))[:, :, span]
        assert torch.equal(example.context.latents[:, place], stage.codec.encode(filled))


@pytest.mark.parametrize("sees", ["[]", "[past]"])
def test_a_window_of_one_clip_is_all_target(sees):
    stage, frames = make_stage(mask="{name: none}", sees=sees), windows(1)
    example = stage.prepare(frames, INDEX)
    assert torch.equal(example.latent, stage.codec.encode(to_clip(frames)))
    assert not example.context.known.any()
    stage.train_step(0, micro(frames, INDEX, 4), 8)


def test_a_sample_is_prepared_alike_in_any_batch():
    options = ("train.flip=0.5", "train.shift=1")
    stage, frames = make_stage(*options), windows()
    together = stage.prepare(frames, INDEX)
    for i in range(8):
        alone = stage.prepare(frames[i:i + 1], INDEX[i:i + 1])
        assert torch.equal(alone.latent[0], together.latent[i])
        assert torch.equal(alone.context.latents[0], together.context.latents[i])
    assert equal(stage.prepare(frames, INDEX, "validate").latent, make_stage().prepare(frames, INDEX, "validate").latent)


def test_a_whole_window_is_flipped():
    flipped, plain, frames = make_stage("train.flip=1.0"), make_stage(), windows()
    a, b = flipped.prepare(frames, INDEX), plain.prepare(frames.flip(3), INDEX)
    assert torch.equal(a.latent, b.latent) and torch.equal(a.context.latents, b.context.latents)


@pytest.mark.parametrize("parametrisation", ["x0", "v"])
def test_loss_and_gradient_equal_a_hand_computation(parametrisation):
    stage, frames = make_stage(*LINEAR, f"process.parametrisation={parametrisation}"), windows()
    torch.nn.init.normal_(stage.net.unet.conv_out.weight, std=0.1)  # zero at first
    example, net, seed = stage.prepare(frames, INDEX), copy.deepcopy(stage.net), stage.cfg.train.seed
    level = training_level(stage.cfg.schedule, batch_rand((), INDEX, seed, "train", "level"))
    noise = batch_randn(example.latent.shape[1:], INDEX, seed, "train", "noise")
    output = net(add_noise(example.latent, noise, level), level.t, example.context)
    loss = (output - target(example.latent, noise, level, parametrisation)).square().mean()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    logs = stage.train_step(0, micro(frames, INDEX, 8), 8)
    torch.testing.assert_close(logs["loss"], loss.detach())
    torch.testing.assert_close(logs["gradient"], norm)


def test_any_cut_of_a_batch_makes_the_same_update():
    one, many = make_stage(*LINEAR, "train.flip=0.5"), make_stage(*LINEAR, "train.flip=0.5")
    for step in range(3):
        frames, index = windows(seed=step), INDEX + 100 * step
        logs = [stage.train_step(step, micro(frames, index, cut), 8) for stage, cut in ((one, 8), (many, 2))]
        torch.testing.assert_close(logs[0]["loss"], logs[1]["loss"])
    for p, q in zip(weights(one.net), weights(many.net)):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0.0)


def test_validation_is_fixed_and_does_not_depend_on_its_micro_batch():
    one, many = make_stage("loop.micro_batch=4"), make_stage("loop.micro_batch=1")
    first = one.validate(0)
    assert one.validate(5) == first
    assert many.validate(0)["loss"] == pytest.approx(first["loss"], rel=1e-5)


def test_validation_measures_the_averaged_weights():
    stage = make_stage(*LINEAR)
    for step in range(3):
        stage.train_step(step, micro(windows(seed=step), INDEX, 8), 8)
    other = make_stage(*LINEAR)
    other.net.load_state_dict({key: value.clone() for key, value in stage.ema.weights().items()})
    other.ema = type(other.ema)(other.net, other.cfg.ema)
    assert stage.validate(3) == other.validate(0)


def test_looking_leaves_the_training_as_it_was(tmp_path):
    stage, other = make_stage("unet.dropout=0.2"), make_stage("unet.dropout=0.2")
    for step in range(3):
        batch = micro(windows(seed=step), INDEX, 4)
        torch.manual_seed(step)
        stage.train_step(step, batch, 8)
        before = torch.get_rng_state()
        stage.validate(step)
        stage.sample(step, tmp_path)
        stage.export(step, tmp_path, "last")
        assert torch.equal(torch.get_rng_state(), before) and stage.net.training
        torch.manual_seed(step)
        other.train_step(step, batch, 8)
    assert equal(weights(stage.net), weights(other.net))
    assert sorted(p.suffix for p in tmp_path.glob("step-*")) == [".mp4"] * 3 + [".png"] * 3


def test_state_continues_bit_for_bit(tmp_path):
    def train(stage, first, last):
        for step in range(first, last):
            stage.train_step(step, micro(windows(seed=step), INDEX + 8 * step, 4), 8)
    whole, first, second = make_stage(), make_stage(), make_stage()
    train(whole, 0, 5)
    train(first, 0, 3)
    checkpoint.save(tmp_path / "state.pt", {"stage": first.state()})
    second.load_state(checkpoint.load(tmp_path / "state.pt")["stage"])
    train(second, 3, 5)
    assert equal(weights(second.net), weights(whole.net))
    assert equal(second.ema.weights().values(), whole.ema.weights().values())


def test_training_never_touches_the_codec():
    stage = make_stage()
    stage.train_step(0, micro(windows(), INDEX, 8), 8)
    assert all(p.grad is None for p in stage.codec.parameters())
    assert not any(parameter.data_ptr() in {p.data_ptr() for p in stage.codec.parameters()}
                   for group in stage.optimizer.param_groups for parameter in group["params"])


def test_a_loss_that_is_not_finite_stops_before_the_update():
    stage = make_stage()
    with torch.no_grad():
        stage.net.unet.conv_out.bias[0] = torch.inf
    before = weights(stage.net)
    with pytest.raises(FloatingPointError, match="step 4"):
        stage.train_step(4, micro(windows(), INDEX, 8), 8)
    assert equal(weights(stage.net), before)


@pytest.mark.parametrize("name", MASKS)
def test_every_mask_trains(name):
    stage = make_stage(mask=f"{{name: {name}}}")
    assert torch.isfinite(stage.train_step(0, micro(windows(), INDEX, 8), 8)["loss"])


def test_it_learns_to_repeat_the_clip_before():
    stage = make_stage("optim.lr=5e-3", "optim.warmup=0", mask="{name: pvdm, rate: 1.0}")
    losses = []
    for step in range(40):
        frames = windows(1, seed=step).repeat(1, 2, 1, 1, 1)
        losses.append(float(stage.train_step(step, micro(frames, INDEX + 8 * step, 8), 8)["loss"]))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


HISTORY = ("condition.mask=true", "condition.history=true", "train.history_noise={sigma: 0.6, rate: 0.5}")


def test_history_is_noisy_for_a_share_of_the_samples_and_told():
    stage, frames = make_stage(*HISTORY, mask="{name: fixed, known: 0-7}", sees="[anchor, past]"), windows(3, batch=400)
    index = torch.arange(400)
    context = stage.prepare(frames, index).context
    clean = stage.prepare(frames, index, "validate").context
    level = context.level
    noisy = (level > 0).all(1)
    assert torch.equal((level > 0).any(1), noisy) and 0.4 < noisy.float().mean() < 0.6
    assert level.max() < 0.6 and level[noisy].mean().item() == pytest.approx(0.3, abs=0.03)
    assert not torch.allclose(level[noisy, 0], level[noisy, 1])  # each place has its own
    assert torch.equal(context.latents[~noisy], clean.latents[~noisy]) and clean.level == 0.0
    s = level[noisy][:, :, None, None]
    noise = (context.latents[noisy] - (1 - s**2).sqrt() * clean.latents[noisy]) / s
    assert abs(noise.mean()) < 0.01 and noise.std().item() == pytest.approx(1, abs=0.01)


def test_history_noise_belongs_to_the_sample():
    stage, frames = make_stage(*HISTORY), windows()
    together = stage.prepare(frames, INDEX).context
    for i in range(8):
        alone = stage.prepare(frames[i:i + 1], INDEX[i:i + 1]).context
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together))
    absent = ~together.known.any(-1)
    assert absent.any() and not together.level[absent].any() and not together.latents[absent].any()


def test_gamma_noise_is_what_is_added_and_predicted():
    gamma = ("process.noise=gamma", "process.gamma_scale=1.0")
    plain, stage = make_stage(*LINEAR), make_stage(*LINEAR, *gamma)
    frames, seen = windows(), []
    example, seed = stage.prepare(frames, INDEX), stage.cfg.train.seed

    def net(z, t, context):
        seen.append(z)
        return z

    losses = stage.losses(net, example, INDEX, "train")
    level = training_level(stage.cfg.schedule, batch_rand((), INDEX, seed, "train", "level"))
    normal = batch_randn(example.latent.shape[1:], INDEX, seed, "train", "noise")
    noise = shaped_noise(normal, level, stage.cfg.process)
    assert torch.equal(seen[0], add_noise(example.latent, noise, level)) and not torch.allclose(noise, normal, atol=0.1)
    torch.testing.assert_close(losses, (seen[0] - example.latent).square().flatten(1).mean(1))
    plain.losses(net, example, INDEX, "train")
    assert torch.equal(seen[1], add_noise(example.latent, normal, level))


def test_frames_of_the_clip_that_are_known_are_predicted_like_the_others():
    # So a model that sees the clip alone is one that predicts all frames, known ones too.
    stage, frames = make_stage(*LINEAR, "condition.mask=true", mask="{name: fixed, known: 0-1}", sees="[self]"), windows(1)
    example = stage.prepare(frames, INDEX)
    assert example.context.known[:, 0].tolist() == [[True, True, False, False]] * 8
    frame_of = (torch.arange(example.latent.shape[-1]) // 4).expand_as(example.latent)  # the fake codec's pixels, t h w
    for frame in range(T):
        wrong = example.latent + (frame_of == frame)
        losses = stage.losses(lambda z, t, context, wrong=wrong: wrong, example, INDEX, "train")
        torch.testing.assert_close(losses, torch.full((8,), 4 / example.latent[0].numel()))


def test_a_checkpoint_that_is_older_than_an_option_continues():
    stage, other = make_stage(), make_stage()
    state = copy.deepcopy(stage.state())
    for part, key in (("unet", "canvas"), ("unet", "positional_norm"), ("process", "noise"), ("process", "gamma_scale")):
        del state["config"][part][key]
    other.load_state(state)
    state["config"]["unet"]["canvas"] = True
    with pytest.raises(ValueError, match="another model: unet"):
        other.load_state(state)
