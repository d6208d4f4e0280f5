"""What a diffusion model file holds, and that it comes back as it was."""

import pytest
import torch
from fakes import autoencoder, autoencoder_payload, diffusion_config, diffusion_stage, first_config, video

from autoencoder.codec import Codec, LatentStats
from latent_diffusion.info import count, describe
from latent_diffusion.modelfile import FIRST_MODEL, build_net, load_diffusion, load_net, load_unet
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.schedule import level_at
from tools import checkpoint
from tools.modelfile import read_model

OVERRIDES = ("unet.mult=[1]", "unet.attention=[1]", "condition.mask=false")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as training leaves it, and the stage that wrote it."""
    folder = tmp_path_factory.mktemp("run")
    codec = Codec(autoencoder(first_config()), LatentStats(torch.rand(3, 4), torch.rand(3, 4) + 0.5))
    stage = diffusion_stage(diffusion_config(*OVERRIDES), codec)
    torch.nn.init.normal_(stage.net.unet.conv_out.weight, std=0.1)
    for which in ("last", "best"):
        stage.export(5, folder, which)
    checkpoint.save(folder / FIRST_MODEL, stage.codec_payload)
    checkpoint.save(checkpoint.step_path(folder / "checkpoints", 5), {"step": 5, "stage": stage.state()})
    return folder, stage


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("path", ["", "model_last.pth", "model_best.pth", "checkpoints/step-00000005.pt"])
def test_every_form_holds_network_codec_and_process(run, path):
    folder, stage = run
    model = load_diffusion(folder / path, weights="raw")
    assert (model.schedule, model.process, model.step) == (stage.cfg.schedule, stage.cfg.process, 5)
    assert same(model.codec.net, stage.codec.net)
    torch.testing.assert_close(model.codec.mean, stage.codec.mean)
    torch.testing.assert_close(model.codec.std, stage.codec.std)
    assert not model.net.training and not any(p.requires_grad for p in model.net.parameters())
    assert same(model.net, stage.net) == (path != "model_best.pth")


def test_weights_are_those_asked_for(run):
    folder, stage = run
    raw, ema = load_diffusion(folder, weights="raw"), load_diffusion(folder)
    assert same(raw.net, stage.net) and not same(ema.net, stage.net)
    assert raw.weights_hash == checkpoint.state_hash(stage.net.state_dict()) != ema.weights_hash
    assert (raw.weights, ema.weights) == ("raw", "ema")


def test_a_loaded_model_makes_what_the_trained_one_makes(run):
    folder, stage = run
    frames, known = video(1, 8), torch.arange(8) < 4
    loaded = VideoDiffusion.load(folder, weights="raw").complete(frames, known, steps=2)
    stage.net.eval()
    assert torch.equal(stage.as_model(5).complete(frames, known, steps=2), loaded)


def test_another_autoencoder_of_the_same_latents_may_be_given(run, tmp_path):
    other = autoencoder(first_config(), seed=3)
    checkpoint.save(tmp_path / "other.pth", autoencoder_payload(other))
    assert same(load_diffusion(run[0], tmp_path / "other.pth").codec.net, other)
    wrong = autoencoder(first_config("tiny.yaml", "model.latent_channels=2"))
    checkpoint.save(tmp_path / "wrong.pth", autoencoder_payload(wrong))
    with pytest.raises(ValueError, match="was trained on latents 4 x"):
        load_diffusion(run[0], tmp_path / "wrong.pth")


def test_unets_come_in_pvdms_form(run):
    folder, stage = run
    net, x, past = load_unet(folder, "raw"), *torch.randn(2, 2, 4, stage.net.shape.total)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        eps = net(x, t, past)
        level = level_at(stage.cfg.schedule, t)
        output = stage.net.unet(torch.cat([x, past], 1), t)  # v
    wanted = level.sigma[:, None, None] * x + level.alpha[:, None, None] * output
    torch.testing.assert_close(eps, wanted, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(net(x, t, None), net(x, t, torch.zeros_like(x)))


def test_an_untrained_network_has_the_shape_of_its_file(run):
    folder, stage = run
    built, loaded = build_net(read_model(folder).config), load_net(folder)
    assert [p.shape for p in built.parameters()] == [p.shape for p in loaded.parameters()]
    assert loaded.condition.sees == stage.net.condition.sees


def test_what_is_no_diffusion_model_is_refused(run, tmp_path):
    checkpoint.save(tmp_path / "first.pth", autoencoder_payload(autoencoder(first_config())))
    for load in (load_diffusion, load_net, load_unet):
        with pytest.raises(ValueError, match="kind autoencoder"):
            load(tmp_path / "first.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="neither"):
        load_diffusion(tmp_path / "foreign.pth")
    stray = tmp_path / "step-00000005.pt"
    stray.write_bytes((run[0] / "checkpoints" / "step-00000005.pt").read_bytes())
    with pytest.raises(ValueError, match="--first_model"):
        load_diffusion(stray)


def test_info_tells_what_a_file_is(run):
    folder, stage = run
    facts = describe(read_model(folder))
    assert (facts["kind"], facts["step"], facts["weights"], facts["sees"]) == ("diffusion", 5, "ema", ["past"])
    assert facts["parameters"] == count(stage.net) and facts["autoencoder_inside"]
    first = describe(read_model(folder / FIRST_MODEL))
    assert first["kind"] == "autoencoder" and first["latent"]["positions"] == stage.codec.shape.total
    wanted = [[round(float(v), 4) for v in row] for row in stage.codec_payload["extra"]["latent_std"]]
    assert first["latent_std"] == wanted
