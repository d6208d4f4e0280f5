"""LPIPS from local files equals the package's own, reaches the input with gradients, and never goes to the net."""

import copy
from types import SimpleNamespace

import lpips
import pytest
import torch
import torchvision
from torchvision.models import vgg

from autoencoder.perceptual import VGG, PerceptualLoss, find_vgg, load_lpips


@pytest.fixture(scope="module")
def reference():
    """The package's own LPIPS on a random VGG16; its linear heads are the published ones."""
    def features_only(**_):  # the classifier, which LPIPS throws away, takes seconds to draw
        return SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))

    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(torchvision.models, "vgg16", features_only)
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def weights(reference, tmp_path_factory):
    """That VGG16 as torchvision would save it, without the classifier."""
    state = {".".join(["features", *key.split(".")[2:]]): value
             for key, value in reference.state_dict().items() if key.startswith("net.")}
    path = tmp_path_factory.mktemp("weights") / VGG.file
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def loss(weights):
    return PerceptualLoss(load_lpips(weights, verify=False))


def frames(channels=3, size=(32, 48), seed=0):
    return torch.rand((2, channels, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def no_places(monkeypatch, tmp_path):
    monkeypatch.delenv("VIDEO_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # a call would be a TypeError
    return tmp_path


@pytest.mark.parametrize("channels", [3, 1])
def test_value_is_that_of_the_package(loss, reference, channels):
    a, b = frames(channels), frames(channels, seed=1)
    wanted = reference(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)).flatten()
    got = loss(a, b)
    torch.testing.assert_close(got.total, wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.mean(), wanted.mean(), rtol=1e-5, atol=1e-7)


def test_equal_frames_are_at_distance_zero(loss):
    assert loss(frames(), frames()).mean() == 0


def test_gradient_reaches_the_reconstruction_only(loss):
    recon, target = frames().requires_grad_(), frames(seed=1).requires_grad_()
    loss(recon, target).mean().backward()
    assert recon.grad.abs().sum() > 0 and target.grad is None
    assert all(not p.requires_grad and p.grad is None for p in loss.parameters())


def test_gradient_is_finite_where_all_features_vanish(loss):
    dead = copy.deepcopy(loss)
    for name, weight in dead.net.net.named_parameters():
        weight.fill_(-1.0 if "bias" in name else 0.0)
    recon = frames().requires_grad_()
    dead(recon, frames(seed=1)).mean().backward()
    assert torch.isfinite(recon.grad).all()


def test_training_mode_changes_nothing(loss):
    before = loss(frames(), frames(seed=1)).total
    assert torch.equal(loss.train()(frames(), frames(seed=1)).total, before)
    assert not any(m.training for m in loss.modules())


def test_loading_leaves_the_global_generator_alone(weights):
    state = torch.random.get_rng_state()
    load_lpips(weights, verify=False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_small_frames_are_refused(loss):
    with pytest.raises(ValueError, match="perceptual_weight=0"):
        loss(frames(size=(8, 32)), frames(size=(8, 32)))


def test_places_in_order(no_places, weights, monkeypatch):
    cache = no_places / "hub" / "checkpoints" / VGG.file
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert find_vgg() == cache
    monkeypatch.setenv("VIDEO_WEIGHTS", str(weights.parent))
    assert find_vgg() == weights
    assert find_vgg(cache) == cache


def test_missing_file_says_what_to_fetch_and_where(no_places):
    with pytest.raises(ValueError) as error:
        load_lpips()
    text = str(error.value)
    assert "\n" not in text
    for part in (VGG.url, str(no_places / "hub" / "checkpoints"), "loss.perceptual_weight=0"):
        assert part in text


def test_a_given_path_has_no_fallback(no_places, weights, monkeypatch):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(weights.parent))
    with pytest.raises(ValueError, match="elsewhere"):
        find_vgg(no_places / "elsewhere.pth")


def test_another_file_is_refused(weights):
    with pytest.raises(ValueError, match=f"{weights.stat().st_size} bytes, .* has {VGG.size}; .*perceptual_weight=0"):
        load_lpips(weights)


def test_other_networks_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"no vgg backbone .*features\.0\.weight .*perceptual_weight=0"):
        load_lpips(tmp_path / "vgg.pth", verify=False)
