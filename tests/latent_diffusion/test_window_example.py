"""Training windows: which clips, what of them is known, and what bears loss."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
from fakes import diffusion_config, diffusion_stage, micro, video

from autoencoder.fill import fill_missing
from autoencoder.planes import PlaneShape
from latent_diffusion.condition import CONDITIONS
from latent_diffusion.masks import MASKS, fdm_sets
from latent_diffusion.window_example import place_draws
from tools.rng import rand
from tools.video import to_clip

T = 4
INDEX = torch.arange(8)


def make_stage(*overrides, mask="{name: fixed, known: 0-4}", **options):
    small = ("unet.mult=[1]", "unet.attention=[1]", "train.sample_steps=1", "process.parametrisation=x0", "optim.eps=1e-3",
             "optim.lr=3e-3", "optim.warmup=0")
    options = {"name": "window", "slots": 3, "overlap": 0, "fewer": 0.0, **options}
    return diffusion_stage(diffusion_config(*small, f"condition={json.dumps(options)}", f"mask={mask}", *overrides))


def stretches(stage, batch=8, seed=0):
    return video(batch, stage.net.condition.stretch, (2, 2), 1, seed=seed)


def condition(**options):
    return CONDITIONS.bind({"name": "window", **options})(PlaneShape(4, 2, 2), 1, T)


def layouts(form, count=200, frames=None):
    for i in range(count):
        draws = iter(rand((4 * form.stretch + 64,), 0, i).tolist())
        yield form.lay(frames or form.stretch, draws.__next__).starts


@pytest.mark.parametrize("overlap", [0, 1])
def test_clips_are_given_partly_known_or_made(overlap):
    stage = make_stage(overlap=overlap)
    frames, pace = stretches(stage), T - overlap
    example = stage.prepare(frames, INDEX)
    clip, context = to_clip(frames), example.context
    known = torch.arange(clip.shape[2]) < 5
    assert clip.shape[2] == 2 * pace + T and context.there.all()
    for slot in range(3):
        span = slice(slot * pace, slot * pace + T)
        assert torch.equal(example.latent[:, slot], stage.codec.encode(clip[:, :, span]))
        assert context.known[:, slot].eq(known[span]).all() and context.start[:, slot].eq(slot * pace).all()
        seen = stage.codec.encode(fill_missing(clip, known.expand(8, -1))[:, :, span])
        assert torch.equal(context.latents[:, slot], seen)
    assert example.keep.tolist() == [[False, True, True]] * 8


@pytest.mark.parametrize("levels", ["shared", "own"])
def test_only_targets_bear_loss_and_each_counts_alike(levels):
    stage = make_stage(levels=levels)
    example = stage.prepare(stretches(stage), INDEX)

    def loss(slots, error=1.0):
        wrong = example.latent.clone()
        wrong[:, slots] += error
        return stage.losses(lambda z, t, context: wrong, example, INDEX, "train")

    zero = torch.zeros(8)
    torch.testing.assert_close(loss([0], torch.nan), zero)
    torch.testing.assert_close(loss([1]), zero + 0.5)
    torch.testing.assert_close(loss([1, 2]), zero + 1)


@pytest.mark.parametrize("levels", ["shared", "own"])
def test_targets_share_a_level_or_have_their_own(levels):
    stage, told = make_stage(levels=levels, slots=4), []
    example = stage.prepare(stretches(stage), INDEX)
    stage.losses(lambda z, t, context: told.append(t) or z, example, INDEX, "train")
    assert told[0].shape == (8, 4)
    assert all(row.unique().numel() == (1 if levels == "shared" else 4) for row in told[0])


@pytest.mark.parametrize("name", MASKS)
def test_with_every_mask_something_is_made(name):
    stage = make_stage(mask=f"{{name: {name}}}", fewer=0.5, overlap=1)
    index = torch.arange(64)
    example = stage.prepare(stretches(stage, 64), index)
    assert example.keep.any(1).all() and not (example.keep & ~example.context.there).any()
    assert not example.context.known[~example.context.there].any()
    assert torch.isfinite(stage.losses(stage.net, example, index, "train")).all()


def test_neighbouring_clips_lie_anywhere_and_sometimes_are_fewer():
    form = condition(slots=4, overlap=1, fewer=0.5)
    assert (form.stretch, form.pace) == (13, 3)
    made = list(layouts(form, 400))
    assert {len(row) for row in made} == {1, 2, 3, 4}
    assert 200 < sum(len(row) == 4 for row in made) < 300  # half, and a quarter of the others
    assert all(b - a == 3 for row in made for a, b in pairwise(row))
    assert {row[0] for row in made if len(row) == 1} == {0, 3, 6, 9}
    assert list(layouts(condition(slots=4, overlap=1, fewer=0.0), 3)) == [[0, 3, 6, 9]] * 3


def test_a_video_that_is_too_short_holds_fewer_clips():
    assert set(map(len, layouts(condition(slots=4, overlap=0, fewer=0.0), 20, frames=2 * T + 1))) == {2}


def test_clips_of_one_frame_do_not_overlap():
    form = CONDITIONS.bind({"name": "window"})(PlaneShape(1, 2, 2), 1, 1)
    assert (form.overlap, form.pace, form.stretch) == (0, 1, 4)


def test_clips_with_gaps_reach_far():
    form = condition(slots=4, overlap=0, spacing="gaps", reach=16)
    assert form.stretch == 16 * T
    made = list(layouts(form))
    assert all(0 < len(row) <= 4 and row == sorted(set(row)) and row[-1] <= 15 * T and not any(s % T for s in row)
               for row in made)
    gaps = {b - a for row in made for a, b in pairwise(row)}
    assert T in gaps and max(gaps) >= 8 * T


def test_gaps_train_from_far_clips():
    stage = make_stage(spacing="gaps", reach=6, slots=3, mask="{name: both}")
    index = torch.arange(64)
    example = stage.prepare(stretches(stage, 64), index)
    starts, there = example.context.start, example.context.there
    assert not there.all() and (starts[there] >= 3 * T).any()
    clip = to_clip(stretches(stage, 64))
    for b, s in there.nonzero()[:20].tolist():
        first = int(starts[b, s])
        assert torch.equal(example.latent[b, s], stage.codec.encode(clip[b:b + 1, :, first:first + T])[0])
    assert not example.latent[~there].any() and not example.context.latents[~there].any()


# --- mask fdm: what is observed was drawn with the clips -------------------------------------------------------

def fdm_windows(count, stream="train", mask="{name: fdm}", **options):
    """First frames of the clips that training windows give, and of those that they make, by the stage and its frames."""
    stage = make_stage(spacing="gaps", mask=mask, **options)
    frames = video(1, stage.net.condition.stretch, (2, 2), 1).expand(count, -1, -1, -1, -1)
    context = stage.prepare(frames, torch.arange(count), stream).context
    for start, whole, made in zip(context.start, context.whole, context.targets):
        yield tuple(start[whole].int().tolist()), tuple(start[made].int().tolist())


@pytest.mark.parametrize("stream", ["train", "validate"])
def test_two_clips_are_a_task_as_often_as_in_fdm(stream):
    # The first group, one of them or both, is made. If it is one, the other is given or made too, alike: by hand.
    found = Counter(fdm_windows(1600, stream, slots=2, reach=2))
    expected = {((), (0, T)): 0.75, ((0,), (T,)): 0.125, ((T,), (0,)): 0.125}
    assert set(found) == set(expected)
    for task, p in expected.items():
        assert found[task] / 1600 == pytest.approx(p, abs=5 * (p * (1 - p) / 1600) ** 0.5)


def test_what_fdm_observes_of_the_video_is_given_and_what_it_makes_is_made():
    given = 0
    for i, (known, made) in enumerate(fdm_windows(300, slots=4, reach=16)):
        draws = place_draws(42, "train", i, 16 * T)
        sets = fdm_sets(16, draws.__next__, 4)
        observed, latent = (tuple(T * n for n in clips.nonzero().flatten().tolist()) for clips in sets)
        assert (known, made) == (observed, latent) and not set(known) & set(made) and made
        assert all(0 <= start <= 15 * T for start in known + made)
        given += bool(known)
    assert 30 < given < 100  # 0.21 of 300: FDM's own share for four frames of a long video


def test_a_given_clip_is_shown_whole_and_of_its_neighbour_what_they_share():
    stage = make_stage(spacing="gaps", slots=4, reach=8, overlap=1, mask="{name: fdm}")
    context = stage.prepare(stretches(stage, 200), torch.arange(200)).context
    partly = 0
    for start, known, there in zip(context.start.int(), context.known, context.there):
        whole = known.all(-1) & there
        frames = {frame for first in start[whole].tolist() for frame in range(first, first + T)}
        for first, row in zip(start[there & ~whole].tolist(), known[there & ~whole]):
            assert row.tolist() == [frame in frames for frame in range(first, first + T)]
            partly += bool(row.any())
    assert partly


def test_clips_that_cover_all_that_is_made_are_not_observed():
    # Clips of 4 that share 3 frames: the ones beside a clip make up all of it.
    stage = make_stage(spacing="gaps", slots=3, reach=3, overlap=3, mask="{name: fdm}")
    context = stage.prepare(stretches(stage, 600), torch.arange(600)).context
    assert context.targets.any(1).all() and context.whole.any(1).any()
    form, clips = condition(spacing="gaps", slots=3, reach=3, overlap=3), torch.arange(3)
    assert form._groups(6, clips != 1, clips == 1).observed.any().item() is False
    assert form._groups(6, clips == 0, clips == 1).observed.tolist() == [True] * 4 + [False] * 2


def test_a_short_video_holds_fdms_clips_too():
    form = condition(spacing="gaps", slots=3, reach=10, overlap=0)
    for i in range(100):
        starts, observed = form.lay(3 * T + 2, place_draws(0, "train", i, 3 * T + 2).__next__)
        assert observed.shape == (3 * T + 2,) and set(starts) <= {0, T, 2 * T}
        assert not observed[3 * T:].any() and not all(observed[s:s + T].all() for s in starts)


def test_in_a_mixture_fdm_is_one_task_of_several():
    found = list(fdm_windows(1600, mask="{name: mixture, parts: [{name: fdm, weight: 1}, {name: none, weight: 3}]}", slots=2,
                             reach=2))
    assert sum(bool(known) for known, _ in found) / 1600 == pytest.approx(0.25 / 4, abs=5 * (0.0625 * 0.9375 / 1600) ** 0.5)


def test_side_by_side_fdm_observes_frames():
    stage = make_stage(slots=3, mask="{name: fdm, max_frames: 12}")
    known = stage.prepare(stretches(stage, 64), torch.arange(64)).context.known
    assert (known.any(-1) & ~known.all(-1)).any()


def test_a_window_is_prepared_alike_in_any_batch_and_any_cut_makes_the_same_update():
    options = {"mask": "{name: mixture}", "fewer": 0.5, "overlap": 1, "levels": "own"}
    one, many = make_stage("train.flip=0.5", **options), make_stage("train.flip=0.5", **options)
    frames = stretches(one)
    together = one.prepare(frames, INDEX)
    for i in range(8):
        alone = one.prepare(frames[i:i + 1], INDEX[i:i + 1])
        assert torch.equal(alone.latent[0], together.latent[i])
        assert torch.equal(alone.context.known[0], together.context.known[i])
    for step in range(2):
        batch = [micro(stretches(one, seed=step), INDEX + 8 * step, cut) for cut in (8, 2)]
        losses = [stage.train_step(step, parts, 8)["loss"] for stage, parts in zip((one, many), batch)]
        torch.testing.assert_close(*losses)
    for p, q in zip(one.net.parameters(), many.net.parameters()):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0.0)


def test_given_clips_can_be_noisy_and_the_network_is_told():
    stage = make_stage("train.history_noise={sigma: 0.6, rate: 1.0}", history=True)
    context = stage.prepare(stretches(stage), INDEX).context
    clean = make_stage().prepare(stretches(stage), INDEX).context
    assert (context.level > 0).all()  # also where a clip of which nothing is known is filled from the others
    assert not torch.isclose(context.latents, clean.latents).flatten(2).all(-1).any()


def test_it_learns_from_a_clip_that_is_not_beside_the_target():
    stage = make_stage(mask="{name: fixed, known: 0-7}")

    def frames(seed):
        clips = video(16, 3 * T, (2, 2), 1, seed=seed)
        clips[:, T:2 * T] = video(16, T, (2, 2), 1, seed=seed + 1000)  # tells nothing of the others
        clips[:, 2 * T:] = clips[:, :T]
        return clips

    index, losses = torch.arange(16), []
    for step in range(150):
        losses.append(float(stage.train_step(step, micro(frames(step), index + 16 * step, 16), 16)["loss"]))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    example = stage.prepare(frames(5000), index, "validate")
    with torch.no_grad():
        right = stage.losses(stage.net, example, index, "validate").mean()
        for slots, matters in (([0], True), ([1, 2], False)):  # the target is filled from the clip beside it
            latents = example.context.latents.clone()
            latents[:, slots] = latents[:, slots].roll(1, 0)
            other = example._replace(context=example.context._replace(latents=latents))
            wrong = stage.losses(stage.net, other, index, "validate").mean()
            assert (wrong > 1.5 * right) == matters


def test_looking_at_samples_works(tmp_path):
    stage = make_stage()
    stage.sample(1, tmp_path)
    assert stage.validate(1) == stage.validate(2)
    assert len(list(tmp_path.glob("step-*"))) == 2


@pytest.mark.parametrize("options, words", [
    ({"slots": 0}, r"condition\.slots"), ({"overlap": T}, r"condition\.overlap .*0\.\.3"),
    ({"spacing": "wide"}, "contiguous, gaps"),
    ({"levels": "any"}, "shared, own"), ({"fewer": 1.5}, r"condition\.fewer"), ({"reach": 8}, r"condition\.reach=8"),
    ({"spacing": "gaps", "reach": 2}, "at least condition.slots=4"),
])
def test_nonsense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        condition(**options)
