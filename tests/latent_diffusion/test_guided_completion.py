"""Guidance of a completion: which views are weighed how, where, and what they cost."""

import dataclasses

import numpy as np
import pytest
import torch
from fakes import NearNet, NextNet, PixelNet, fake_model, given, video

from autoencoder.codec import Codec
from latent_diffusion.completion import Completion
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.samplers import SAMPLERS
from latent_diffusion.schedule import ScheduleConfig, sampling_levels
from latent_diffusion.settings import Settings

T = 4
GREY = 2 / 255


class Share(NextNet):
    """Makes what share of the frames around a clip it is shown; it remembers them."""

    def __init__(self):
        super().__init__(sees=("past", "self", "future"))

    def forward(self, x, t, context=None):
        self.calls.append((float(t[0]), context))
        return torch.full_like(x, 0.0 if context is None else float(context.known.float().mean()))


def level(made):
    """Of the last frame, as a clip has it."""
    return float(made[0, -1].float().mean()) * GREY - 1


def complete(net, mask, frames=None, rows=1, **settings):
    frames = torch.full((rows, len(mask), 2, 2, 1), 100, dtype=torch.uint8) if frames is None else frames
    work = Completion(fake_model(net), Settings(**{"steps": "1", "border": False} | settings), mask,
                      [(row, 0) for row in range(len(frames))])
    return work, work.run(frames)


# --- a weaker model ------------------------------------------------------------------------------------------

def test_a_guide_takes_the_place_of_knowing_nothing():
    strong, weak = NextNet(step=10 * GREY, start=9.0), NextNet(step=4 * GREY, start=9.0)
    work, made = complete(strong, given(2 * T, *range(T)), guidance=1.5, guide=fake_model(weak))
    assert level(made) == pytest.approx((100 + 10 + 1.5 * (10 - 4)) * GREY - 1, abs=GREY / 2)
    for net in (strong, weak):
        assert [context is None for _, context in net.calls] == [False]
    assert torch.equal(strong.calls[0][1].latents, weak.calls[0][1].latents)
    assert (work.evaluations(), work.network_evaluations()) == (1, 2)


@pytest.mark.parametrize("sees", [(), ("past",)])
def test_a_guide_serves_where_nothing_is_known_too(sees):
    strong, weak = NextNet(start=0.2, sees=sees), NextNet(start=0.1, sees=())
    work, made = complete(strong, given(T), guidance=2.0, guide=fake_model(weak), steps="3")
    assert level(made) == pytest.approx(0.2 + 2 * (0.2 - 0.1), abs=GREY)
    assert work.network_evaluations() == len(strong.calls) + len(weak.calls) == 6


def test_the_guide_of_the_python_interface_is_a_pipeline():
    strong, weak = (VideoDiffusion(fake_model(NextNet(start=start))) for start in (0.2, 0.1))
    made = strong.generate(1, guidance=2.0, guide=weak, steps=1)
    assert torch.equal(made, strong.generate(1, guidance=2.0, guide=weak.model, steps=1)) and level(made) > 0.3


@pytest.mark.parametrize("change, message", [
    ({"schedule": ScheduleConfig(name="linear")}, "its schedule is"),
    ({"codec": Codec(PixelNet(), weights_hash="x")}, "its autoencoder is x"),
    ({"codec": Codec(PixelNet(frames=8))}, "latent"), ({"net": NextNet(sees=("past", "self"))}, "looks at past, self"),
])
def test_a_guide_of_another_kind_is_refused(change, message):
    guide = fake_model(change["net"]) if "net" in change else dataclasses.replace(fake_model(NextNet()), **change)
    with pytest.raises(ValueError, match=rf"--guide model\.pth .*{message}"):
        Completion(fake_model(NextNet()), Settings(guidance=1.0, guide=guide), given(T), [])


# --- where it acts -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("interval, inside", [
    ((0.0, None), range(10)), ((0.6, None), range(7)), ((0.0, 1.2), range(5, 10)), ((0.6, 1.8), range(4, 7))])
def test_guidance_acts_within_its_interval(interval, inside):
    # ten equal angles: the steps of the cosine schedule begin at sigma / alpha = inf, 6.3, 3.1, 2, 1.4, 1, 0.7, 0.5, 0.3, 0.2
    net = NextNet(step=0.1, start=-0.2)
    work, _ = complete(net, given(2 * T, *range(T)), guidance=1.0, interval=interval, steps="10", sampler="ddim")
    times = sorted({t for t, _ in net.calls}, reverse=True)
    assert [times.index(t) for t, context in net.calls if context is None] == list(inside)
    assert work.network_evaluations() == len(net.calls) == 10 + len(inside) and work.evaluations() == 10


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("settings", [
    {}, {"guidance": 1.0}, {"guidance": 1.0, "interval": (0.3, 2.0)}, {"history_guidance": 1.0},
    {"guidance": 1.0, "history_guidance": -1.0}, {"guidance": 0.5, "history_guidance": 0.5, "interval": (0.5, None)},
    {"history_guidance": 1.0, "history_fraction": 1.0}, {"history_guidance": 1.0, "history_fraction": 0.01}])
def test_every_call_of_a_network_is_counted(sampler, settings):
    net, shown = Share(), []
    mask = given(4 * T, 0, 5, 6)
    work = Completion(fake_model(net), Settings(sampler=sampler, steps="5/4", **settings), mask, [(0, 0), (1, 0)], shown.append)
    work.run(video(2, 4 * T, (2, 2), 1))
    assert work.network_evaluations() == len(net.calls) and sum(shown) == 2 * work.evaluations()


# --- a share of the history ----------------------------------------------------------------------------------

HISTORY = given(3 * T, *range(T), *range(2 * T, 3 * T))  # 8 of the 12 frames around the clip in the middle
PART = {"history_fraction": 0.25, "overlap": 0}          # which leaves 2 of them


def test_fractional_guidance_adds_what_a_share_says():
    net = Share()
    frames = torch.full((1, 3 * T, 2, 2, 1), 100, dtype=torch.uint8)
    work = Completion(fake_model(net), Settings(steps="1", border=False, history_guidance=0.6, **PART), HISTORY, [(0, 0)])
    made = work.run(frames)[0, T].float().mean() * GREY - 1
    assert float(made) == pytest.approx(8 / 12 + 0.6 * 2 / 12, abs=GREY)
    assert sorted(0 if context is None else int(context.known.sum()) for _, context in net.calls) == [0, 2, 8]


def test_away_from_a_share_is_guidance_less_that_of_the_share():
    net = Share()
    work = Completion(fake_model(net), Settings(steps="1", border=False, guidance=0.6, history_guidance=-0.6, **PART), HISTORY,
                      [(0, 0)])
    made = work.run(torch.full((1, 3 * T, 2, 2, 1), 100, dtype=torch.uint8))[0, T].float().mean() * GREY - 1
    assert float(made) == pytest.approx(8 / 12 + 0.6 * (8 - 2) / 12, abs=GREY)
    assert sorted(int(context.known.sum()) for _, context in net.calls) == [2, 8]  # knowing nothing cancels out


@pytest.mark.parametrize("net", [NextNet, NearNet])
def test_the_whole_history_is_plain_guidance(net):
    frames, mask = video(1, 3 * T, (2, 2), 1), given(3 * T, *range(T))
    made = [complete(net(start=-0.1), mask, frames, steps="3", **how)[1]
            for how in ({"guidance": 0.7}, {"history_guidance": 0.7, "history_fraction": 1.0})]
    assert torch.equal(*made)


def test_a_hidden_frame_is_filled_from_those_that_are_left():
    seen = []

    class Look(NearNet):
        def forward(self, x, t, context=None):
            if context is not None:
                seen.append((context.known[0].clone(), context.latents[0, :, 0, :T * 4].unflatten(-1, (T, 4)).mean(-1)))
            return super().forward(x, t, context)

    frames = (20 * torch.arange(3 * T)).to(torch.uint8)[None, :, None, None, None].expand(1, -1, 2, 2, 1).contiguous()
    Completion(fake_model(Look()), Settings(steps="1", history_guidance=1.0, **PART), HISTORY, [(0, 0)]).run(frames)
    for known, latents in seen:
        left = [f for f in range(3 * T) if known.flatten()[f]]
        grey = (latents + 1) * 127.5 / 20  # the number of the frame that stands there, in fractions where it is a blend
        for place in range(3):  # the middle one is filled from all; of the others one of which nothing is left holds zeros
            own = [f for f in left if place == 1 or f // T == place]
            wanted = np.interp(range(place * T, (place + 1) * T), own, own) if own else np.full(T, 127.5 / 20)
            np.testing.assert_allclose(grey[place], wanted, atol=1e-4)
    assert sorted(int(known.sum()) for known, _ in seen) == [2, 8]


def test_what_is_hidden_is_drawn_once_for_a_clip_and_alike_in_any_batch():
    frames, mask = video(3, 5 * T, (2, 2), 1), given(5 * T, *range(T))
    settings = Settings(steps="3", history_guidance=1.0, guidance=0.3)
    nets = Share(), Share(), Share()
    ids = [(0, 0), (0, 1), (7, 0)]
    together = Completion(fake_model(nets[0]), settings, mask, ids).run(frames)
    alone = Completion(fake_model(nets[1]), settings, mask, ids[2:]).run(frames[2:])
    assert torch.equal(alone[0], together[2])
    Completion(fake_model(nets[2]), dataclasses.replace(settings, seed=1), mask, ids[2:]).run(frames[2:])
    masks = [[context.known[0].flatten().tolist() for _, context in net.calls if context is not None] for net in nets]
    assert masks[0] == masks[1] != masks[2]
    assert all(len({tuple(m) for m in masks[0][i:i + 6]}) == 2 for i in range(0, len(masks[0]), 6))  # 3 steps, of two views


# --- a noisy history -----------------------------------------------------------------------------------------

class Told(NextNet):
    """Makes how noisy it is told that the places around a clip are, on average; it remembers what it was shown."""
    history = True

    def __init__(self):
        super().__init__(sees=("past", "self", "future"))

    def forward(self, x, t, context=None):
        self.calls.append((float(t[0]), context))
        return torch.full_like(x, 0.0 if context is None else float(self.condition.levels(context).mean()))


def test_guidance_by_a_noisy_history_adds_what_it_says():
    net = Told()
    _, made = complete(net, HISTORY, rows=8, overlap=0, guidance=0.5, history_guidance=0.6, history_sigma=0.4)
    assert float(made[0, T].float().mean() * GREY - 1) == pytest.approx(0.6 * 0.4, abs=GREY)  # the whole history tells of none
    assert sorted(-1.0 if c is None else float(net.condition.levels(c).max()) for _, c in net.calls) \
        == pytest.approx([-1.0, 0.0, 0.4])
    clean, noisy = (c.latents for _, c in sorted((call for call in net.calls if call[1] is not None),
                                                 key=lambda call: float(net.condition.levels(call[1]).max())))
    noise = (noisy - (1 - 0.4**2) ** 0.5 * clean) / 0.4
    assert abs(float(noise.mean())) < 0.2 and abs(float(noise.std()) - 1) < 0.2


def test_the_noise_of_a_history_is_the_same_in_any_batch_and_at_every_step():
    frames, nets, ids = video(3, 3 * T, (2, 2), 1), (Told(), Told()), [(0, 0), (0, 1), (7, 0)]
    settings = Settings(steps="3", overlap=0, guidance=0.5, history_guidance=0.6, history_sigma=0.4)
    for net, rows in zip(nets, (slice(0, 3), slice(2, 3))):
        Completion(fake_model(net), settings, HISTORY, ids[rows]).run(frames[rows])
    together, alone = ([c.latents[-1] for _, c in net.calls if c is not None and net.condition.levels(c).max() > 0]
                       for net in nets)
    assert len(alone) == 3
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one, other) and torch.equal(one, alone[0])


def test_made_clips_are_shown_noisy_and_given_ones_clean():
    net = Told()
    complete(net, given(4 * T, *range(T)), overlap=0, history_noise=0.3)
    wanted = [[0, 0, 0], [0.3, 0.3, 0], [0.3, 0.3, 0]]  # past, self (filled from the past), future
    for (_, context), levels in zip(net.calls, wanted, strict=True):
        assert net.condition.levels(context)[0].tolist() == pytest.approx(levels)


@pytest.mark.parametrize("how", [{"history_noise": 0.3}, {"history_guidance": 1.0, "history_sigma": 0.3}])
def test_a_model_that_is_not_told_of_noise_is_shown_none(how):
    with pytest.raises(ValueError, match=r"condition\.history=true"):
        Completion(fake_model(NearNet()), Settings(**how), HISTORY, [])


@pytest.mark.parametrize("how, message", [
    ({"history_noise": 1.5}, "history_noise .*0 to 1"), ({"history_guidance": 1.0, "history_sigma": -1}, "sigma .*0 to 1"),
    ({"history_sigma": 0.3}, "guidance.history=W")])
def test_levels_of_a_noisy_history_are_checked(how, message):
    with pytest.raises(ValueError, match=message):
        Settings(**how)


# --- another model for the first clip ------------------------------------------------------------------------

def test_a_content_model_makes_the_first_clip_and_nothing_else():
    content, motion = NextNet(start=0.5, sees=()), NextNet(step=10 * GREY, start=9.0)
    other = ScheduleConfig(name="linear")
    model = dataclasses.replace(fake_model(content), schedule=other)
    work, made = complete(motion, given(3 * T), content=model, steps="3/2", sampler="ddim")
    first = round(1.5 / GREY)
    assert [int(made[0, k * T].float().mean()) for k in range(3)] == pytest.approx([first, first + 10, first + 20], abs=1.0)
    assert len(content.calls) == 3 and work.network_evaluations() == len(content.calls) + len(motion.calls) == 3 + 2 + 2
    assert [t for t, _ in content.calls] == [level.t for level in sampling_levels(other, "3")[:3]]


def test_a_content_model_without_work_is_refused():
    content = fake_model(NextNet(sees=()))
    with pytest.raises(ValueError, match="every clip has known frames"):
        Completion(fake_model(NextNet()), Settings(content=content), given(2 * T, *range(T)), [])
    other = dataclasses.replace(content, codec=Codec(PixelNet(), weights_hash="other"))
    with pytest.raises(ValueError, match="autoencoder other"):
        Completion(fake_model(NextNet()), Settings(content=other), given(2 * T), [])
