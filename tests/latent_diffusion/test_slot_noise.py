"""The noise of a clip: a function of seed, video, sample, slot and evaluation, whatever the batch."""

import pytest
import torch
from fakes import NextNet, fake_model

from latent_diffusion.completion import Completion
from latent_diffusion.noise import mixed
from latent_diffusion.settings import Settings
from latent_diffusion.slot_noise import SlotNoise, WindowNoise

T = 4


def made_of(net, frames, rows=1, **settings):
    """Videos of which nothing is known."""
    settings = Settings(**{"steps": "1", "border": False} | settings)
    work = Completion(fake_model(net), settings, torch.zeros(frames, dtype=torch.bool), [(row, 0) for row in range(rows)])
    return work.run(torch.zeros(rows, frames, 2, 2, 1, dtype=torch.uint8))


def test_noise_follows_from_seed_video_sample_slot_and_evaluation():
    like = torch.empty(3, 1, 20)
    noise = SlotNoise(5, [(0, 0), (0, 1), (1, 0)], 2)
    first, second = noise(like), noise(like)
    draws = [*first, *second, SlotNoise(6, [(0, 0)], 2)(like[:1])[0], SlotNoise(5, [(0, 0)], 3)(like[:1])[0]]
    for i, a in enumerate(draws):
        assert all(not torch.equal(a, b) for b in draws[:i])
    again = SlotNoise(5, [(1, 0), (0, 0)], 2)
    assert torch.equal(again(like[:2]), first[[2, 0]]) and torch.equal(again(like[:2]), second[[2, 0]])


def test_slots_have_noise_of_their_own():
    made = made_of(NextNet(noise=0.3), 2 * T)
    assert not torch.equal(made[:, :T], made[:, T:])


class Seen(NextNet):
    def forward(self, x, t, context=None):
        self.inputs = [*getattr(self, "inputs", []), x.clone()]
        return super().forward(x, t, context)


def starts(**settings):
    """What the clips of two videos start from, s b c n."""
    net = Seen()
    made_of(net, 3 * T, rows=2, **settings)
    return torch.stack(net.inputs)


def test_cooler_noise_is_the_same_noise_but_smaller():
    torch.testing.assert_close(starts(temperature=0.7), 0.7 * starts())
    assert (starts(temperature=0.0) == 0).all()


def test_shared_noise_is_mixed_from_its_own_and_what_a_video_has_in_common():
    own, half, whole = starts(), starts(shared_noise=0.5), starts(shared_noise=1.0)
    assert torch.equal(whole[0], whole[1]) and torch.equal(whole[0], whole[2])
    assert not torch.equal(whole[0, 0], whole[0, 1])
    torch.testing.assert_close(half, mixed(own, whole, 0.5))
    assert (whole[0, 0] - own[:, 0]).abs().amin() > 0  # it is no clip's own


def test_the_default_noise_is_as_it_was():
    for slot, noise in enumerate(starts()):
        assert torch.equal(noise, SlotNoise(0, [(0, 0), (1, 0)], slot)(noise))


def test_videos_share_what_they_have_in_common_between_slots_at_the_asked_correlation():
    like = torch.empty(200, 1, 500)
    ids = [(video, 0) for video in range(200)]
    a, b = (SlotNoise(0, ids, slot).start(like, shared=0.6).double() for slot in (0, 1))
    assert float((a * a).mean()) == pytest.approx(1, abs=0.02) and float((a * b).mean()) == pytest.approx(0.6, abs=0.02)
    assert float((a * b.roll(1, 0)).mean()) == pytest.approx(0, abs=0.02)  # other videos have nothing in common


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5}, {"shared": 0.7}])
def test_the_draws_after_the_start_are_the_same_however_it_starts(how):
    like, draws = torch.empty(2, 1, 20), SlotNoise(3, [(0, 0), (4, 1)], 2)
    plain = SlotNoise(3, [(0, 0), (4, 1)], 2)
    plain.start(like)
    draws.start(like, **how)
    assert torch.equal(draws(like), plain(like))


def test_clips_of_a_window_have_the_noise_that_each_has_alone():
    ids, like = [(0, 0), (2, 1)], torch.empty(2, 3, 1, 20)
    window, alone = WindowNoise(7, ids, [4, 0, 9]), [SlotNoise(7, ids, slot) for slot in (4, 0, 9)]
    for draw in range(3):
        drawn = window.start(like, 0.8, 0.3) if draw == 0 else window(like)
        for i, noise in enumerate(alone):
            assert torch.equal(drawn[:, i], noise.start(like[:, i], 0.8, 0.3) if draw == 0 else noise(like[:, i]))


def test_as_many_clips_are_drawn_as_there_are():
    with pytest.raises(ValueError):
        WindowNoise(7, [(0, 0)], [4, 0])(torch.empty(1, 3, 1, 20))
    with pytest.raises(ValueError):
        WindowNoise(7, [(0, 0)], [4, 0]).start(torch.empty(1, 3, 1, 20))


def test_noise_takes_the_kind_of_its_latent():
    assert SlotNoise(0, [(0, 0)], 0)(torch.empty(1, 2, 5, dtype=torch.float64)).dtype == torch.float64
