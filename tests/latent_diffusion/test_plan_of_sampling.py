"""Schedules and adaptive schemes when sampling: in clips, in their order, and each video by its own content."""

import json
from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
import torchvision
from fakes import NearNet, NextNet, fake_model, video
from torchvision.models import vgg

from autoencoder.perceptual import PerceptualLoss
from latent_diffusion import distance
from latent_diffusion.completion import Completion
from latent_diffusion.distance import choose_distance, lpips_features
from latent_diffusion.schemes import Window
from latent_diffusion.settings import Settings

T = 4
BACKWARD = [Window([0], [3]), Window([0, 3], [2]), Window([0, 2], [1])]  # of four clips of which the first is given


def given(frames, *known):
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[list(known)] = True
    return mask


def order(work):
    return [job.slot for job in work.jobs]


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))


# --- schedules -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("as_file", [True, False])
def test_a_schedule_says_which_clip_is_made_when(tmp_path, as_file):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([window._asdict() for window in BACKWARD]))
    net = NearNet()
    work = Completion(fake_model(net), Settings(schedule=path if as_file else BACKWARD, steps="1", overlap=0),
                      given(4 * T, *range(T)), [(0, 0)])
    assert order(work) == [3, 2, 1] and work.windows == BACKWARD
    work.run(video(1, 4 * T, (2, 2), 1))
    seen = [context is not None and context.known[0].all(1).tolist() for _, context in net.calls]
    assert seen == [False, [False, False, True], [True, False, True]]


def test_a_schedule_like_a_scheme_makes_the_same_video():
    frames, mask = video(2, 4 * T, (2, 2), 1), given(4 * T, *range(T))
    windows = Completion(fake_model(NextNet()), Settings(), mask, []).windows
    made = [Completion(fake_model(NextNet(noise=0.3)), Settings(**how), mask, [(0, 0), (1, 0)]).run(frames)
            for how in ({}, {"schedule": windows})]
    assert torch.equal(*made)


@pytest.mark.parametrize("net, settings, message", [
    (NearNet(), {"schedule": BACKWARD[:2]}, "no window makes clip 1; every clip"),
    (NearNet(), {"schedule": [([0], [1, 2, 4])]}, "has clip 4, but the clips of the video are 0 to 3"),
    (NearNet(), {"schedule": [([0], [1, 2, 3])], "window": 3}, "more than --window 3"),
    (NearNet(), {"schedule": BACKWARD, "window": 0}, "more than --window 0"),
    (NearNet(), {"schedule": BACKWARD, "stride": 1}, "--stride 1 is for a scheme"),
    (NearNet(), {"schedule": BACKWARD, "stride": 0}, "--stride 0 is for a scheme"),
    (NearNet(), {"schedule": BACKWARD, "scheme": "shift"}, "give one of them"),
    (NearNet(), {"schedule": "nowhere.json"}, "nowhere.json: cannot be read"),
    (NextNet(), {"schedule": BACKWARD}, "this --schedule makes clip 3 without the one before it"),
])
def test_a_schedule_that_does_not_fit_is_refused(net, settings, message):
    settings = {"overlap": 0} | settings
    with pytest.raises(ValueError, match=message):
        Completion(fake_model(net), Settings(**settings), given(4 * T, *range(T)), [])


# --- adaptive schemes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme, plain", [("adaptive-autoreg", "autoreg"), ("adaptive-hierarchy-2", "hierarchy-2")])
def test_a_model_that_looks_at_neighbours_only_has_no_use_for_content(scheme, plain):
    with pytest.raises(ValueError, match=f"always looks at the neighbours .*; use --scheme {plain}, which makes the same"):
        Completion(fake_model(NearNet()), Settings(scheme=scheme), given(4 * T, 0), [])


def observing(net):
    """A model whose condition looks at the clips that a window observes."""
    model = fake_model(net)
    model.net.condition.observes = True
    return model


@pytest.mark.parametrize("steps", ["1", "2"])
def test_each_video_observes_what_is_unlike_in_it(no_weights, steps):
    frames = torch.full((3, 7 * T, 2, 2, 1), 100, dtype=torch.uint8)
    for row in range(3):
        frames[row, row * T:(row + 1) * T] = 250  # clip `row` is unlike the others
    settings = Settings(scheme="adaptive-autoreg", window=3, overlap=0, steps=steps)
    work = Completion(observing(NearNet()), settings, given(7 * T, *range(4 * T)), [(row, 0) for row in range(3)])
    assert work.distance == "pixels" and order(work) == [4, 5, 6]
    seen = []
    for _ in work.pieces(frames[:, :4 * T]):
        seen.append(work.observed)
    assert seen[-3:] == [[[row, last] for row in range(3)] for last in (3, 4, 5)]


def test_content_decides_what_is_seen_and_not_what_is_made(no_weights):
    frames, mask = video(4, 30 * T, (2, 2), 1), given(30 * T, *range(5 * T))
    settings = Settings(scheme="adaptive-hierarchy-2", window=5, stride=2, overlap=0, steps="1")
    together = Completion(observing(NearNet()), settings, mask, [(row, 0) for row in range(4)])
    list(together.pieces(frames[:, :5 * T]))
    plain = Completion(fake_model(NearNet()), Settings(scheme="hierarchy-2", window=5, stride=2, overlap=0), mask, [])
    assert order(together) == order(plain)


@pytest.fixture(scope="module")
def loss():
    """LPIPS on a random VGG16."""
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(torchvision.models, "vgg16", lambda **_: SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"])))
        return PerceptualLoss(lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_distance_of_features_is_lpips(loss, channels):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 20, 24, channels), dtype=np.uint8))
    a, b = (lpips_features(loss, frame) for frame in frames)
    wanted = loss(*(frame.permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in frames)).total
    torch.testing.assert_close((a - b).square().sum(), wanted[0].detach())


def test_features_of_a_large_frame_are_small(loss):
    assert lpips_features(loss, torch.zeros(128, 256, 3, dtype=torch.uint8)).numel() \
        == lpips_features(loss, torch.zeros(64, 128, 3, dtype=torch.uint8)).numel()


def test_lpips_is_chosen_where_its_weights_are_and_frames_are_large_enough(monkeypatch, no_weights):
    assert choose_distance((64, 64)) == "pixels"
    monkeypatch.setattr(distance, "find_vgg", lambda: "here")
    assert (choose_distance((64, 64)), choose_distance((16, 15))) == ("lpips", "pixels")
