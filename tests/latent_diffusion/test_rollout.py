"""Long videos: what is held and what is told, one frame at a time, and clips that start from the one before."""

import pytest
import torch
from fakes import NearNet, NextNet, PixelNet, fake_model, given, video

from autoencoder.codec import Codec
from latent_diffusion.completion import Completion
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.schedule import ScheduleConfig, sampling_levels
from latent_diffusion.settings import Settings
from latent_diffusion.slot_noise import SlotNoise

T = 4
GREY = 2 / 255


def work_on(net, mask, codec=None, **settings):
    return Completion(fake_model(net, codec), Settings(**{"steps": "1"} | settings), mask, [(0, 0)])


def levels(made):
    return made[0].float().mean((1, 2, 3)).tolist()


class Ramp(NextNet):
    """Makes frame i of a clip from frame i of the clip before, i + 1 grey levels brighter."""

    def forward(self, x, t, context=None):
        clean = super().forward(x, t, context)
        clip = clean[:, 0, :T * 4].unflatten(-1, (T, 4)) + GREY * torch.arange(1, T + 1)[:, None]
        return torch.cat([clip.flatten(1), clean[:, 0, T * 4:]], 1)[:, None]


class Watching(NextNet):
    """Remembers its noisy input, too."""

    def forward(self, x, t, context=None):
        self.inputs = [*getattr(self, "inputs", []), x.clone()]
        return super().forward(x, t, context)


# --- what is held --------------------------------------------------------------------------------------------

def held(work):
    """Bytes that a completion holds on to between two pieces."""
    tensors = [*work.latents.values(), *work.film.frames.values(), *(t for edge in work.edges.values() for t in edge)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def most_held(net, mask, **settings):
    work, frames = work_on(net, mask, **settings), video(1, int(mask.sum()), (2, 2), 1)
    return max(held(work) for _ in work.pieces(frames))


@pytest.mark.parametrize("net", [NextNet, NearNet])
@pytest.mark.parametrize("settings", [{}, {"border": False}, {"carry": False}, {"scheme": "shift", "window": 3},
                                      {"one_frame": True}, {"init_prev_t": 0.5, "steps": "2"}])
@pytest.mark.parametrize("known", [0, T])
def test_a_longer_video_takes_no_more_memory(net, settings, known):
    short, long = (most_held(net(), given(frames, *range(known)), **settings) for frames in (10 * T + 1, 40 * T + 1))
    assert 0 < long <= short


@pytest.mark.parametrize("scheme", [{"scheme": "hierarchy-2", "window": 3}, {"scheme": "full", "window": 60}, {}])
def test_latents_and_edges_are_forgotten_in_any_order_of_making(scheme):
    counts = []
    for frames in (10 * T, 40 * T):
        work = work_on(NearNet(), given(frames, 0, frames - 1), **scheme)
        for _ in work.pieces(video(1, 2, (2, 2), 1)):
            pass
        counts.append((len(work.latents), len(work.edges), len(work.film.frames)))
    assert counts == [(0, 0, 0)] * 2


@pytest.mark.parametrize("mask", [given(13, 0, 1, 2, 3), given(24, 9, 10, 23), given(25, 0, 24), given(22)])
@pytest.mark.parametrize("overlap", [None, 0, 2])
@pytest.mark.parametrize("scheme", [{}, {"scheme": "hierarchy-2", "window": 3}, {"scheme": "full", "window": 40}])
def test_nothing_is_forgotten_that_is_looked_at_later(monkeypatch, mask, overlap, scheme):
    class Lossy(PixelNet):
        """Loses the same detail of every frame."""

        def decode(self, latent):
            return super().decode(latent) + 10 * GREY

    frames = video(1, len(mask), (2, 2), 1)
    made = [work_on(NearNet(), mask, Codec(Lossy()), overlap=overlap, **scheme).run(frames)]
    monkeypatch.setattr(Completion, "_forget", lambda *args: None)
    made.append(work_on(NearNet(), mask, Codec(Lossy()), overlap=overlap, **scheme).run(frames))
    assert torch.equal(*made)


def test_a_given_clip_is_encoded_once_and_an_edge_decoded_once():
    codec = Codec(PixelNet())
    work_on(NextNet(), given(5 * T, *range(T)), codec).run(video(1, 5 * T, (2, 2), 1))
    assert (codec.net.encoded, codec.net.decoded) == (1, 4 + 1)


# --- what is told --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"scheme": "hierarchy-2", "window": 3}, {"overlap": 2}, {"one_frame": True}])
def test_a_stream_is_the_completion_in_pieces(options):
    model, past = VideoDiffusion(fake_model(NearNet())), video(2, 6, (2, 2), 1)
    whole = model.predict(past, 20, steps=2, **options)
    pieces = list(model.stream(past, 26, steps=2, **options))
    assert torch.equal(torch.cat(pieces, 1), whole) and all(1 <= piece.shape[1] <= T for piece in pieces)


def test_given_frames_of_a_stream_may_lie_anywhere():
    model, frames, mask = VideoDiffusion(fake_model(NearNet())), video(2, 20, (2, 2), 1), given(20, 3, 9, 10, 19)
    pieces = model.stream(frames[:, mask], 20, known=mask, steps=1)
    assert torch.equal(torch.cat(list(pieces), 1), model.complete(frames, mask, steps=1))


def test_a_piece_comes_as_soon_as_it_is_finished():
    net = NextNet(noise=0.3)
    stream = VideoDiffusion(fake_model(net)).stream(None, 5 * T, videos=3, steps=2, ids=[(0, 0), (1, 0), (7, 2)])
    calls = []
    for piece in stream:
        assert piece.shape == (3, T, 2, 2, 1)
        calls.append(len(net.calls))
    assert calls == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("arguments, message", [
    ({"given": None, "frames": 0}, "frames=0"), ({"given": video(1, 4, (2, 2), 1), "frames": 4}, "all 4 frames are known"),
    ({"given": video(1, 4, (2, 2), 1), "frames": 8, "known": [True] * 3 + [False] * 5}, "as are given, 4, .* with 3"),
    ({"given": video(1, 4, (2, 2), 1), "frames": 3}, "given, 4, .* with 3"),
    ({"given": video(2, 4, (2, 2), 1), "frames": 8, "ids": [(0, 0)]}, "1 ids for 2 videos"),
])
def test_what_is_wrong_with_a_stream_is_told_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        VideoDiffusion(fake_model(NextNet())).stream(**arguments)


# --- one frame at a time -------------------------------------------------------------------------------------

@pytest.mark.parametrize("known", [T, T + 1, 2 * T, 2 * T + 3])
def test_one_frame_at_a_time_keeps_the_first_of_each_block(known):
    net = Ramp()
    frames = video(1, 20, (2, 2), 1) // 2
    made = work_on(net, given(20, *range(known)), one_frame=True).run(frames)
    wanted = frames[0, :known].int().tolist()
    for frame in range(known, 20):
        wanted.append((torch.tensor(wanted[frame - T]) + 1).tolist())  # the first frame of a block is one level brighter
    assert made[0].tolist() == wanted
    assert len(net.calls) == 20 - known
    shown = [context.latents[0, 0, 0, :T * 4].unflatten(0, (T, 2, 2, 1)) for _, context in net.calls]
    for frame, clip in zip(range(known, 20), shown):
        assert torch.equal(((clip + 1) * 127.5).round(), made[0, frame - T:frame].float())


def test_blocks_kept_whole_are_another_video():
    frames = video(1, 3 * T, (2, 2), 1) // 2
    made = work_on(Ramp(), given(3 * T, *range(T))).run(frames)
    assert levels(made)[T:2 * T] == [level + i for i, level in enumerate(levels(frames)[:T], 1)]


@pytest.mark.parametrize("net, calls", [(NextNet, 1 + 7), (NearNet, 1 + 7)])
def test_a_generated_video_begins_with_a_whole_clip(net, calls):
    net = net(start=0.5)
    assert levels(work_on(net, given(T + 7), one_frame=True).run(video(1, T + 7, (2, 2), 1))) == [191] * (T + 7)
    assert len(net.calls) == calls and sum(context is None for _, context in net.calls) == 1


def test_a_model_that_sees_parts_needs_no_whole_clip():
    net = NearNet()
    frames = video(1, 9, (2, 2), 1)
    made = work_on(net, given(9, 0, 1), one_frame=True).run(frames)
    assert (made[0, 2:] == frames[0, 1]).all() and len(net.calls) == 7
    for (_, context), frame in zip(net.calls, range(2, 9), strict=True):
        past, inside, after = context.known[0].tolist()
        assert past == [place >= 0 for place in range(frame - T, frame)] and not any(inside + after)


# --- a clip that starts from the one before ------------------------------------------------------------------

@pytest.mark.parametrize("share, left", [(0.3, 3), (0.5, 5), (0.01, 1)])
@pytest.mark.parametrize("known", [0, T])
def test_every_clip_but_the_first_starts_from_the_one_before(share, left, known):
    net = Watching(start=0.2, step=0.1)
    work = work_on(net, given(known + 3 * T, *range(known)), steps="10", sampler="ddim", init_prev_t=share)
    work.run(video(1, known + 3 * T, (2, 2), 1))
    assert work.evaluations() == work.network_evaluations() == len(net.calls) == 10 + 2 * left
    full = sampling_levels(ScheduleConfig(name="cosine"), 10)
    first = known // T
    assert torch.equal(net.inputs[0], SlotNoise(0, [(0, 0)], first)(net.inputs[0]) * full[0].sigma)
    for number in (1, 2):  # the network's x0 is constant over a clip's steps, so that it is the clip's latent
        call = 10 + (number - 1) * left
        latent = torch.full_like(net.inputs[0], 0.2) if first + number == 1 else net.calls[call][1].latents[:, 0]
        noise = SlotNoise(0, [(0, 0)], first + number)(latent)
        level = full[10 - left]
        torch.testing.assert_close(net.inputs[call], level.alpha * latent + level.sigma * noise)


def test_its_noise_is_the_same_in_any_batch():
    model, frames = fake_model(NextNet(noise=0.3)), video(3, 4 * T, (2, 2), 1)
    mask, settings = given(4 * T, *range(T)), Settings(steps="4", init_prev_t=0.5, shared_noise=0.5)
    ids = [(0, 0), (0, 1), (5, 0)]
    together = Completion(model, settings, mask, ids).run(frames)
    for row in range(3):
        assert torch.equal(Completion(model, settings, mask, ids[row:row + 1]).run(frames[row:row + 1])[0], together[row])


# --- latents that are not carried on -------------------------------------------------------------------------

def test_without_carry_a_clip_is_seen_as_it_was_written():
    made = {}
    for carry in (True, False):
        codec = Codec(PixelNet())
        work = work_on(NextNet(step=0.25 * GREY), given(13 * T, *range(T)), codec, carry=carry, border=False)
        made[carry] = levels(work.run(torch.full((1, 13 * T, 2, 2, 1), 100, dtype=torch.uint8)))[-1]
        assert codec.net.encoded == (1 if carry else 12)
    assert made == {True: 103, False: 100}  # a quarter of a grey level is rounded away by every decoding
