"""How unlike clips are: by LPIPS or by pixels, and what each video of a batch observes for it."""

from types import SimpleNamespace

import lpips
import numpy as np
import pytest
import torch
import torchvision
from fakes import NearNet, fake_model, given, order, video
from torchvision.models import vgg

from autoencoder.perceptual import PerceptualLoss
from latent_diffusion import distance
from latent_diffusion.adaptive import pixel_distance
from latent_diffusion.completion import Completion
from latent_diffusion.distance import Observers, choose_distance, embedding, lpips_features
from latent_diffusion.schemes import windows
from latent_diffusion.settings import Settings

T = 4


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))


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


def test_pixels_are_compared_as_thumbnails():
    frames = video(1, 6, (20, 24))[0]
    embed, wanted = embedding("pixels", torch.device("cpu")), pixel_distance(frames)
    for i in range(5):
        assert (embed(frames[i]) - embed(frames[i + 1])).square().mean().item() == pytest.approx(wanted(i, i + 1))


def test_lpips_is_read_once(monkeypatch, loss):
    read = []
    monkeypatch.setattr(distance, "load_lpips", lambda: read.append(1))
    monkeypatch.setattr(distance, "PerceptualLoss", lambda net: loss)
    distance._network.cache_clear()
    frame = video(1, 1, (20, 24))[0, 0]
    for _ in range(2):
        assert torch.equal(embedding("lpips", torch.device("cpu"))(frame), lpips_features(loss, frame))
    distance._network.cache_clear()
    assert read == [1]


def test_observers_draw_each_videos_own_windows():
    # Of video `row`, clip `row` is far from the others; an adaptive scheme observes it beside the nearest.
    asked = []

    def frame(slot, row):
        asked.append((slot, row))
        return torch.full((2, 2, 1), 250 if slot == row else 100, dtype=torch.uint8)

    settings = Settings(scheme="adaptive-autoreg", window=3)
    seen = Observers(settings, 8, range(4), 3, frame, embedding("pixels", torch.device("cpu")))
    for planned in windows("autoreg", 8, range(4), window=3, stride=1):
        target = planned.target[0]
        assert seen.next(planned) == [sorted({row, target - 1}) for row in range(3)]
        assert all(slot < target for slot, _ in asked)  # none is asked for before it is finished
    assert len(asked) == len(set(asked))
