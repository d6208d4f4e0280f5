"""How a batch of videos is completed, with networks whose answers are known."""

import pytest
import torch
from fakes import NearNet, NextNet, PixelNet, fake_model, given, video

from autoencoder.codec import Codec, LatentStats
from latent_diffusion.completion import Completion, Settings
from latent_diffusion.samplers import SAMPLERS, evaluations
from latent_diffusion.schedule import ScheduleConfig

T = 4
GREY = 2 / 255  # one grey level in a clip


def complete(model, frames, known, ids=None, progress=None, **settings):
    """Run one completion; `known` counts the first frames."""
    mask = torch.arange(frames.shape[1]) < known
    ids = ids or [(row, 0) for row in range(len(frames))]
    return Completion(model, Settings(**{"steps": "2"} | settings), mask, ids, progress).run(frames)


def still(batch, frames, level=100):
    return torch.full((batch, frames, 2, 2, 1), level, dtype=torch.uint8)


def levels(made):
    """Mean grey level of every frame of the first video."""
    return made[0].float().mean((1, 2, 3)).tolist()


def test_clips_follow_from_one_another_and_given_frames_stay():
    frames = video(2, 4 * T, (2, 2), 1)
    made = complete(fake_model(NextNet(step=5 * GREY)), frames, T)
    assert torch.equal(made[:, :T], frames[:, :T])
    for clip in (1, 2, 3):
        wanted = (frames[:, :T].int() + 5 * clip).clamp(max=255)
        assert torch.equal(made[:, clip * T:(clip + 1) * T].int(), wanted)


def test_what_lies_at_unknown_frames_is_not_looked_at():
    frames, model = video(2, 3 * T, (2, 2), 1), fake_model(NextNet(step=5 * GREY))
    spoiled = frames.clone()
    spoiled[:, T:] = 255 - spoiled[:, T:]
    assert torch.equal(complete(model, frames, T), complete(model, spoiled, T))


@pytest.mark.parametrize("border, decodings", [(True, 12 + 1), (False, 12)])
def test_a_made_clip_is_not_decoded_and_encoded_again(border, decodings):
    codec = Codec(PixelNet())
    model = fake_model(NextNet(step=0.25 * GREY), codec)  # would be rounded away by every encoding
    made = complete(model, still(1, 13 * T), T, border=border)
    assert levels(made)[-1] == 103
    assert (codec.net.encoded, codec.net.decoded) == (1, decodings)  # the given clip; its last frame, for the border


def test_generation_encodes_nothing():
    codec = Codec(PixelNet())
    made = complete(fake_model(NextNet(start=100 * GREY - 1, step=10 * GREY), codec), still(1, 3 * T, 0), 0)
    assert levels(made) == [100] * T + [110] * T + [120] * T
    assert codec.net.encoded == 0


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9, 15])
def test_any_length_is_made_clip_by_clip_and_cut(length):
    net = NextNet(start=100 * GREY - 1, step=10 * GREY)
    made = complete(fake_model(net), still(1, length, 0), 0, steps="1")
    assert levels(made) == [100 + 10 * (frame // T) for frame in range(length)]
    assert len(net.calls) == -(-length // T)


@pytest.mark.parametrize("length", [5, 6, 8, 11])
def test_a_prediction_of_any_length_follows_the_whole_clip_before(length):
    frames = video(1, length, (2, 2), 1)
    made = complete(fake_model(NextNet(step=3 * GREY)), frames, T)
    assert torch.equal(made[:, :T], frames[:, :T])
    wanted = torch.stack([frames[0, i % T].int() + 3 * (i // T) for i in range(length)]).clamp(max=255)
    assert torch.equal(made[0].int(), wanted)


def test_statistics_of_the_codec_are_between_the_network_and_the_pixels():
    stats = LatentStats(torch.full((3, 1), 0.5), torch.full((3, 1), 2.0))
    net = NextNet(step=3 * GREY)  # in units of the deviation
    made = complete(fake_model(net, Codec(PixelNet(), stats)), still(1, 2 * T), T)
    assert levels(made) == [100] * T + [106] * T
    past = net.calls[0][1].latents[0, 0, 0, 0]
    assert float(past) == pytest.approx((100 * GREY - 1 - 0.5) / 2)


@pytest.mark.parametrize("sampler", ["ddpm", {"name": "ddim", "eta": 1.0}, "dpmpp_2m"])
def test_a_video_is_the_same_in_any_batch(sampler):
    model, frames = fake_model(NextNet(noise=0.3)), video(4, 3 * T, (2, 2), 1)
    ids = [(0, 0), (0, 1), (5, 0), (9, 3)]
    together = complete(model, frames, T, ids, sampler=sampler, steps="3")
    for row in range(4):
        alone = complete(model, frames[row:row + 1], T, ids[row:row + 1], sampler=sampler, steps="3")
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(complete(model, frames, T, ids, sampler=sampler, steps="3", seed=1), together)
    twice = complete(model, frames[:1].expand(2, -1, -1, -1, -1), T, [(0, 0), (0, 1)], sampler=sampler, steps="3")
    assert not torch.equal(twice[0], twice[1])


def test_guidance_takes_the_difference_to_knowing_nothing():
    net = NextNet(start=-0.2, step=0.1)
    made = complete(fake_model(net), still(1, 2 * T, 150), T, guidance=0.5, steps="1")
    known = 150 * GREY - 1
    assert levels(made)[-1] == round((1.5 * (known + 0.1) + 0.5 * 0.2 + 1) * 127.5)
    assert [context is None for _, context in net.calls] == [False, True]
    generated = NextNet()
    complete(fake_model(generated), still(1, T, 0), 0, guidance=0.5, steps="3")
    assert len(generated.calls) == 3  # nothing to guide by


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps, known, counts", [("3", 0, [3, 3, 3]), ("5/2", 0, [5, 2, 2]), ("5/2", T, [2, 2])])
def test_steps_and_evaluations_are_counted(sampler, steps, known, counts):
    net, shown = NextNet(), []
    mask = torch.arange(3 * T) < known
    work = Completion(fake_model(net), Settings(sampler=sampler, steps=steps), mask, [(0, 0), (1, 0)], shown.append)
    expected = [evaluations(sampler, n) for n in counts]
    assert work.evaluations() == sum(expected)
    work.run(still(2, 3 * T))
    assert len(net.calls) == sum(expected) and sum(shown) == 2 * sum(expected)


def test_respacing_is_understood():
    net = NextNet()
    complete(fake_model(net, schedule=ScheduleConfig(name="linear", steps=20)), still(1, T, 0), 0, steps="ddim5")
    assert [t for t, _ in net.calls] == [16, 12, 8, 4, 0]


def test_only_tanh_codecs_are_clamped():
    for tanh, top in ((True, 1.0), (False, 3.0)):
        net = NextNet(start=3.0)
        made = complete(fake_model(net, Codec(PixelNet(tanh=tanh))), still(1, 2 * T, 0), 0)
        assert levels(made) == [255] * (2 * T)
        assert float(net.calls[-1][1].latents.max()) == top


class Biased(PixelNet):
    """Loses the same detail of every frame."""

    def decode(self, latent):
        return super().decode(latent) + 10 * GREY


def test_made_frames_take_the_lost_detail_from_the_given_ones():
    frames = still(1, 3 * T)
    mended = complete(fake_model(NextNet(), Codec(Biased())), frames, T)
    pasted = complete(fake_model(NextNet(), Codec(Biased())), frames, T, border=False)
    assert levels(mended) == [100] * (3 * T)
    assert levels(pasted) == [100] * T + [110] * (2 * T)


def test_a_context_says_that_its_whole_clip_is_known():
    net = NextNet()
    complete(fake_model(net), still(3, 2 * T), T, steps="1")
    context = net.calls[0][1]
    assert context.known.shape == (3, 1, T) and context.known.all()


@pytest.mark.parametrize("settings, message", [
    ({"steps": "0"}, "steps"), ({"steps": "/5"}, "steps"), ({"steps": "5/"}, "steps"), ({"steps": "many"}, "steps"),
    ({"sampler": "dimm"}, "ddim"), ({"sampler": {"name": "ddim", "etta": 1}}, "eta"), ({"spacing": "even"}, "spacing"),
])
def test_settings_of_the_sampler_are_checked_too(settings, message):
    with pytest.raises(ValueError, match=message):
        Completion(fake_model(NextNet()), Settings(**settings), torch.arange(2 * T) < T, [(0, 0)])


def test_a_model_without_condition_makes_single_clips():
    net = NextNet(start=20 * GREY - 1, sees=())
    assert levels(complete(fake_model(net), still(1, 3, 0), 0)) == [20] * 3


def numbered(frames):
    """A video whose frame i is of grey level 10 i."""
    return (10 * torch.arange(frames)).to(torch.uint8)[None, :, None, None, None].expand(1, -1, 2, 2, 1).contiguous()


def run(net, mask, codec=None, **settings):
    work = Completion(fake_model(net, codec), Settings(**{"steps": "1"} | settings), mask, [(0, 0)])
    return work.run(numbered(len(mask)))


ANYWHERE = [given(12, 0, 1, 2), given(12, 9, 10, 11), given(12, 0, 11), given(12, 2, 3, 7), given(12, 5), given(3, 1),
            given(13, 0, 1, 2, 3, 9, 10, 11, 12), given(40, 17)]


@pytest.mark.parametrize("mask", ANYWHERE)
@pytest.mark.parametrize("overlap", [None, 0, 2])
@pytest.mark.parametrize("scheme", [{}, {"scheme": "hierarchy-2", "window": 3}, {"scheme": "full", "window": 40}])
def test_given_frames_may_lie_anywhere(mask, overlap, scheme):
    made = run(NearNet(start=-1.0), mask, overlap=overlap, **scheme)
    truth = numbered(len(mask))
    assert torch.equal(made[:, mask], truth[:, mask])
    known = mask.nonzero().flatten().tolist()
    for frame, grey in enumerate(levels(made)):  # between those of the given frames on either side
        beside = [10 * f for f in known if f <= frame][-1:] + [10 * f for f in known if f >= frame][:1]
        assert (min(beside) if made[:, ~mask].all() else 0) <= grey <= max(beside)  # 0: of a clip around which nothing is known


def test_a_clip_is_filled_from_the_finished_frames_in_and_around_it():
    assert levels(run(NearNet(), given(8, 0, 5), overlap=0)) == [0, 10, 20, 30, 40, 50, 50, 50]


@pytest.mark.parametrize("known, order, held", [(range(4), [0, 1, 2], 30), (range(8, 12), [2, 1, 0], 80)])
def test_what_is_made_goes_from_clip_to_clip_either_way(known, order, held):
    net = NearNet()
    made = levels(run(net, given(12, *known), overlap=0))
    assert [made[frame] for frame in range(12) if frame not in known] == [held] * 8
    seen = [context.known[0].all(1).tolist() for _, context in net.calls]
    assert seen == [[True, False, False]] * 2 if order[0] == 0 else [[False, False, True]] * 2


def test_the_context_says_which_frames_of_which_clip_are_finished():
    net = NearNet()
    run(net, given(12, 1, 6, 11), overlap=0, window=3)
    wanted = [[[], [1], [2]], [[0, 1, 2, 3], [2], [3]], [[0, 1, 2, 3], [3], []]]  # by clip, place and frame
    for (_, context), places in zip(net.calls, wanted, strict=True):
        assert [known.nonzero().flatten().tolist() for known in context.known[0]] == places


def test_a_model_that_sees_the_clip_itself_overlaps_by_a_frame():
    net = NearNet()
    run(net, given(10, 0, 1, 2, 3))
    assert [context.known[0, 1].tolist() for _, context in net.calls] == [[True, False, False, False]] * 2
    assert len(net.calls) == 2  # 4 + 3 + 3 frames


@pytest.mark.parametrize("known", [range(4), range(4, 8), (0, 7), (3,)])
def test_made_frames_take_the_lost_detail_on_either_side(known):
    frames, mask = still(1, 8), given(8, *known)
    mended, pasted = (Completion(fake_model(NearNet(), Codec(Biased())), Settings(steps="1", overlap=0, border=border), mask,
                                 [(0, 0)]).run(frames) for border in (True, False))
    assert torch.equal(mended, frames)
    assert torch.equal(pasted[:, mask], frames[:, mask]) and (pasted[:, ~mask] >= 110).all()
