"""Videos made window by window: what a window shows, and what is made of it."""

from dataclasses import replace

import pytest
import torch
from fakes import PixelNet, fake_model, given, video

from autoencoder.codec import Codec
from latent_diffusion.completion import Completion
from latent_diffusion.condition import CONDITIONS
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.schemes import SCHEMES, Window, is_adaptive
from latent_diffusion.settings import Settings
from latent_diffusion.slot_noise import SlotNoise, WindowNoise
from latent_diffusion.unet import UNetConfig

T = 4
GREY = 2 / 255  # one grey level in a clip


class NearestNet(torch.nn.Module):
    """A denoiser of windows whose clean estimate of a clip is what is known of itself, or else the nearest known clip,
    and `start` where nothing is. It remembers its contexts and the labels that it was called with."""

    def __init__(self, start=0.0):
        super().__init__()
        self.start, self.calls, self.inputs, self.sees = start, [], [], ("past",)

    def prepare(self, context, like, keep=False):
        return context

    def forward(self, x, t, context):
        self.calls.append((float(t[0]), context))
        self.inputs.append(x.clone())
        made = x.new_full(x.shape, self.start)
        given = context.latents.shape[1] - x.shape[1]
        for b in range(len(x)):
            for i in range(x.shape[1]):
                apart = (context.start[b] - context.start[b, given + i]).abs()
                apart[~(context.there[b] & context.known[b].any(-1))] = torch.inf
                if apart.min() < torch.inf:
                    made[b, i] = context.latents[b, apart.argmin()]
        return made


def window_model(net=None, codec=None, **options):
    codec = codec or Codec(PixelNet())
    model = fake_model(net or NearestNet(), codec)
    options = {"slots": 4, "overlap": 0, **options}
    model.net.condition = CONDITIONS.bind({"name": "window", **options})(codec.shape, codec.channels, codec.frames)
    return model


def real_model():
    """A network with random weights."""
    codec = Codec(PixelNet())
    torch.manual_seed(0)
    unet = UNetConfig(width=16, mult=(1,), res_blocks=1, attention=(1,), heads=2, zero_out=False)
    net = LatentDenoiser(unet, {"name": "window", "null_token": True, "slots": 4}, codec.shape, codec.channels, T).eval()
    return replace(window_model(codec=codec), net=net)


def numbered(frames, rows=1):
    """Videos whose frame i is of grey level 3 i."""
    return (3 * torch.arange(frames)).to(torch.uint8)[None, :, None, None, None].expand(rows, -1, 2, 2, 1).contiguous()


def complete(model, mask, frames=None, rows=1, **settings):
    work = Completion(model, Settings(**{"steps": "1"} | settings), mask, [(row, 0) for row in range(rows)])
    return work.run(numbered(len(mask), rows) if frames is None else frames)


ANYWHERE = [given(24, *range(4)), given(24, *range(20, 24)), given(24, 0, 23), given(24, 2, 3, 13), given(9, 5), given(3, 1),
            given(24, *range(5), *range(9, 17)), given(24)]


@pytest.mark.parametrize("mask", ANYWHERE, ids=lambda mask: "".join("01"[int(x)] for x in mask))
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_given_frames_may_lie_anywhere_in_any_scheme(scheme, overlap, mask, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net = NearestNet(start=-1.0)
    most = 10 if scheme == "full" else 4
    made = complete(window_model(net, slots=10, overlap=overlap), mask, scheme=scheme, window=most, border=False)
    truth = numbered(len(mask))
    assert torch.equal(made[:, mask], truth[:, mask])
    levels = truth[:, mask] if mask.any() else torch.zeros(1)
    assert levels.min() <= made[:, ~mask].min() and made[:, ~mask].max() <= levels.max()  # held, or between given ones
    for x, (_, context) in zip(net.inputs, net.calls, strict=True):
        assert context.start.shape[1] <= most
        assert context.targets[:, -x.shape[1]:].all() and context.whole[:, :-x.shape[1]].all()


def test_a_window_shows_its_clips_where_they_are():
    net = NearestNet()
    schedule = [Window([0, 5], [2, 4]), Window([2, 4], [1, 3])]
    complete(window_model(net), given(24, *range(4), 9, *range(20, 24)), schedule=schedule)
    first, second = (context for _, context in net.calls)
    assert first.start.tolist() == [[0, 20, 8, 16]] and second.start.tolist() == [[8, 16, 4, 12]]
    assert first.known.all(-1).tolist() == [[True, True, False, False]]
    assert first.known[0, 2].tolist() == [False, True, False, False]  # frame 9
    assert not first.known[0, 3].any()
    for slot, start in ((2, 8), (3, 16)):  # between frames 3, 9 and 20, which the window shows
        shown = first.latents[0, slot, 0, :16].unflatten(-1, (T, 4)).mean(-1)
        torch.testing.assert_close(shown, 3 * GREY * torch.arange(start, start + T) - 1)


def test_targets_of_a_window_are_made_together():
    net = NearestNet()
    complete(window_model(net), given(24, *range(4)), rows=3, steps="5")
    assert [tuple(x.shape[:2]) for x in net.inputs] == [(3, 2)] * 5 + [(3, 2)] * 5 + [(3, 1)] * 5  # half a window at once


def test_each_clip_has_the_noise_that_it_would_have_alone():
    like, ids = torch.empty(2, 3, 1, 20), [(0, 0), (5, 1)]
    noise = WindowNoise(7, ids, [4, 2, 9])
    alone = [SlotNoise(7, ids, slot) for slot in (4, 2, 9)]
    for _ in range(2):
        assert torch.equal(noise(like), torch.stack([one(like[:, 0]) for one in alone], 1))
    start = WindowNoise(7, ids, [4, 2]).start(like[:, :2], 0.5, 0.3)
    assert torch.equal(start[:, 1], SlotNoise(7, ids, 2).start(like[:, 0], 0.5, 0.3))


def test_a_made_clip_is_not_decoded_and_encoded_again():
    codec = Codec(PixelNet())
    complete(window_model(codec=codec), given(10 * T, *range(T)), window=2)
    assert codec.net.encoded == 1 + 9 and codec.net.decoded == 9 + 1  # the given clip; what fills each target; the border


def test_overlapping_clips_of_a_window_write_a_frame_once():
    net = NearestNet()
    made = complete(window_model(net, overlap=1), given(13, *range(4)), scheme="full", window=4)
    assert net.inputs[0].shape[1] == 3 and torch.equal(made[0, :4], numbered(13)[0, :4])
    assert [context.start.tolist() for _, context in net.calls] == [[[0, 3, 6, 9]]]
    assert net.calls[0][1].known[0, 1].tolist() == [True, False, False, False]


@pytest.mark.parametrize("scheme", ["autoreg", "hierarchy-2", "adaptive-hierarchy-2"])
def test_a_clip_whose_frames_others_made_is_seen_and_not_made_again(scheme, monkeypatch):
    monkeypatch.setattr("latent_diffusion.completion.choose_distance", lambda size: "pixels")
    net = NearestNet()
    made = complete(window_model(net, overlap=3), given(14, 0, 1, 2, 13), torch.full((1, 14, 2, 2, 1), 9, dtype=torch.uint8),
                    scheme=scheme)
    assert torch.equal(made, torch.full_like(made, 9))
    for x, (_, context) in zip(net.inputs, net.calls):
        assert context.targets[:, -x.shape[1]:].all() and context.whole[:, :-x.shape[1]].all()
    assert sum(x.shape[1] for x in net.inputs) < 11  # slots


@pytest.mark.parametrize("scheme", ["autoreg", "adaptive-autoreg"])
def test_memory_does_not_grow_with_the_video(scheme):
    held = []
    settings = Settings(steps="1", window=3, stride=1, scheme=scheme)
    work = Completion(window_model(), settings, given(40 * T, *range(T)), [(0, 0)])
    for _ in work.pieces(numbered(T)):
        held.append((len(work.film.frames), len(work.latents)))
    assert (max(held)[0] > 30 * T) == is_adaptive(scheme)  # which may look at any clip
    assert is_adaptive(scheme) or (max(held) <= (6 * T, 5))


def test_each_video_observes_its_own_clips(monkeypatch):
    monkeypatch.setattr("latent_diffusion.completion.choose_distance", lambda size: "pixels")
    frames, net = torch.full((3, 7 * T, 2, 2, 1), 100, dtype=torch.uint8), NearestNet()
    for row in range(3):
        frames[row, row * T:(row + 1) * T] = 250  # clip `row` is unlike the others
    complete(window_model(net), given(7 * T, *range(4 * T)), frames, 3, scheme="adaptive-autoreg", window=3, stride=1)
    _, context = net.calls[0]
    assert context.start.tolist() == [[row * T, 3 * T, 4 * T] for row in range(3)]
    for row in range(3):
        torch.testing.assert_close(context.latents[row, 0, 0, :16], torch.full((16,), 250 * GREY - 1))


def test_guidance_compares_with_the_same_targets_and_nothing_known():
    net = NearestNet(start=-0.2)
    made = complete(window_model(net), given(12, *range(4)), torch.full((1, 12, 2, 2, 1), 150, dtype=torch.uint8), guidance=0.5,
                    border=False)
    (_, full), (_, nothing) = net.calls
    assert torch.equal(full.start, nothing.start) and full.known.any() and not nothing.known.any()
    assert nothing.there.tolist() == [[False, True, True]]
    assert made[0, -1].unique().tolist() == [round((1.5 * (150 * GREY - 1) + 0.5 * 0.2 + 1) * 127.5)]


def test_history_guidance_hides_whole_clips():
    net = NearestNet()
    mask = given(16, *range(8), 12)
    work = Completion(window_model(net), Settings(steps="1", history_guidance=1.0), mask, [(0, 0)])
    work.run(numbered(16))
    counts = sorted(int(context.whole.sum()) for _, context in net.calls)
    assert counts == [0, 1, 2] and work.network_evaluations() == 3
    assert all(context.targets[:, -2:].all() for _, context in net.calls)


@pytest.mark.parametrize("settings", [{}, {"guidance": 1.0, "sampler": "ddpm"}, {"scheme": "hierarchy-2"}])
def test_a_video_is_the_same_in_any_batch_and_known_frames_stay(settings):
    model, frames, mask = VideoDiffusion(real_model()), video(3, 21, (2, 2), 1), given(21, 0, 1, 2, 3, 9, 20)
    settings = {"steps": 2} | settings
    together = model.complete(frames, mask, **settings)
    assert torch.equal(together[:, mask], frames[:, mask]) and (together[:, ~mask] != frames[:, ~mask]).any()
    for row in range(3):
        alone = model.complete(frames[row], mask, ids=[(row, 0)], **settings)
        assert (alone[0].int() - together[row].int()).abs().max() <= 1
    streamed = torch.cat(list(model.stream(frames[:, mask], 21, known=mask, **settings)), 1)
    assert (streamed.int() - together.int()).abs().max() <= 1


def test_what_is_made_depends_on_far_clips():
    model, frames, mask = VideoDiffusion(real_model()), video(1, 16, (2, 2), 1), given(16, *range(4))
    other = frames.clone()
    other[:, :3] = 255 - other[:, :3]  # not the last frame, where clips meet
    made = [model.complete(given_, mask, steps=2, window=4, stride=3, border=False)[:, 13:] for given_ in (frames, other)]
    assert not torch.equal(*made)


@pytest.mark.parametrize("task", ["generate", "predict", "predict_backward", "interpolate", "infill"])
def test_every_task_of_the_python_interface(task):
    model, frames = VideoDiffusion(real_model()), video(2, 5, (2, 2), 1)
    made = {"generate": lambda: model.generate(2, frames=9, steps=1), "predict": lambda: model.predict(frames, 9, steps=1),
            "predict_backward": lambda: model.predict_backward(frames, 9, steps=1),
            "interpolate": lambda: model.interpolate(frames, frames, 4, steps=1),
            "infill": lambda: model.infill(frames, "0,3", steps=1)}[task]()
    assert made.shape[1] == {"generate": 9, "infill": 5}.get(task, 14)
    if task == "interpolate":
        assert torch.equal(made[:, :5], frames) and torch.equal(made[:, -5:], frames)


@pytest.mark.parametrize("settings, words", [
    ({"window": 5}, "windows of up to 4 clips, got --window 5"), ({"one_frame": True}, "one_frame is for models that make one"),
    ({"init_prev_t": 0.5}, "init_prev_t is for models"), ({"schedule": [Window([0], [1, 2, 3, 4, 5])]}, "4"),
    ({"scheme": "full", "window": 4}, 'scheme "full" makes all 5'),
])
def test_what_a_window_cannot_do_is_refused(settings, words):
    with pytest.raises(ValueError, match=words) as error:
        Completion(window_model(), Settings(**settings), given(24, *range(4)), [(0, 0)])
    assert "\n" not in str(error.value)


def test_a_guide_is_of_the_same_kind():
    guide = fake_model(NearestNet(), Codec(PixelNet()))
    with pytest.raises(ValueError, match="kind of condition is one clip at a time, the model's window"):
        Completion(window_model(), Settings(guidance=1.0, guide=guide), given(24, 0), [])


def test_its_own_windows_are_the_default():
    work = Completion(window_model(slots=6, overlap=1), Settings(), given(24, 0), [])
    assert work.settings.sizes == {"window": 6, "stride": 3} and work.grid.starts[:3] == (0, 3, 6)
    assert Completion(window_model(slots=6), Settings(window=2), given(24, 0), []).settings.sizes == {"window": 2, "stride": 1}
