"""The second stage as a run: its sizes come with the autoencoder, its files carry it."""

import pytest
import torch
from fakes import autoencoder, diffusion_config, first_config

from autoencoder.codec import Codec, LatentStats
from latent_diffusion.modelfile import load_diffusion
from latent_diffusion.train import codec_payload, fit_data, train_diffusion
from tools import checkpoint
from tools.log import Run

SHORT = ("loop.steps=2", "loop.save_every=2", "loop.validate_every=2", "train.validation_clips=2", "loop.batch_size=2",
         "unet.mult=[1]", "unet.attention=[1]", "data.options.length=12")


@pytest.fixture
def codec():
    return Codec(autoencoder(first_config()), LatentStats(torch.rand(3, 4), torch.rand(3, 4) + 0.5))


def train(folder, codec, *overrides, **options):
    run = Run(folder)
    train_diffusion(diffusion_config(*SHORT, *overrides), run, codec, **options)
    run.close()
    return folder


def test_clips_are_cut_for_the_autoencoder(codec):
    cfg = fit_data(diffusion_config("data.resolution=[32,48]", "data.frames=7", "data.channels=1"), codec)
    assert (cfg.data.frames, cfg.data.size, cfg.data.channels) == (4, (16, 16), 3)


def test_the_autoencoder_goes_with_the_model(codec, tmp_path):
    folder = train(tmp_path / "run", codec)
    model = load_diffusion(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.codec.net.parameters(), codec.net.parameters()))
    assert torch.equal(model.codec.mean, codec.mean) and torch.equal(model.codec.std, codec.std)
    assert {"first_model.pth", "model_last.pth", "ema_model_last.pth", "model_best.pth"} <= {p.name for p in folder.iterdir()}
    assert checkpoint.load(checkpoint.latest(folder / "checkpoints"))["step"] == 2


@pytest.mark.parametrize("options", [("mask.rate=0",), ("mask.name=none",), ("condition.sees=[]", "mask.name=none")])
def test_without_a_condition_windows_are_single_clips(codec, tmp_path, options):
    folder = train(tmp_path / "run", codec, *options, "data.options.length=4")  # videos of one clip
    assert load_diffusion(folder).step == 2


def test_one_frame_clips_train_on_images(tmp_path):
    codec = Codec(autoencoder(first_config("tiny.yaml", "data.frames=1")))
    folder = train(tmp_path / "run", codec, "mask.name=none", "data.options.length=1", "loop.sample_every=2")
    assert load_diffusion(folder).codec.frames == 1
    assert list((folder / "samples").glob("*.png"))


def test_a_new_run_may_start_from_a_models_weights(codec, tmp_path):
    first = train(tmp_path / "first", codec)
    still = ("optim.lr=1e-12", "optim.weight_decay=0")
    second = train(tmp_path / "second", codec, *still, init_from=str(first / "model_last.pth"))
    nets = [load_diffusion(folder, weights="raw").net for folder in (first, second)]
    for a, b in zip(*(net.parameters() for net in nets)):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=0.0)


def test_short_videos_are_refused_with_what_is_needed(codec, tmp_path):
    with pytest.raises(ValueError, match=r"5 frames|8 frames"):
        train(tmp_path / "run", codec, "data.options.length=5")


def test_the_payload_is_a_whole_autoencoder(codec, tmp_path):
    checkpoint.save(tmp_path / "first.pth", codec_payload(codec))
    payload = checkpoint.load(tmp_path / "first.pth")
    assert payload["kind"] == "autoencoder" and payload["extra"]["latent_mean"].shape == (3, 4)
