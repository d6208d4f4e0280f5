"""The first stage as a run: where it starts from, and what it leaves."""

from dataclasses import replace

import pytest
import torch
from fakes import autoencoder, autoencoder_payload, first_config

from autoencoder.codec import load_autoencoder
from autoencoder.train import check_model, train_first_stage
from tools import checkpoint
from tools.log import Run

SHORT = ("loop.steps=3", "loop.save_every=2", "loop.validate_every=3", "train.validation_clips=2", "loop.batch_size=4")


def train(folder, cfg, **options):
    run = Run(folder)
    train_first_stage(cfg, run, **options)
    run.close()
    return folder


def states(folder):
    return checkpoint.load(checkpoint.latest(folder / "checkpoints"))["stage"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return train(tmp_path_factory.mktemp("first") / "run", first_config("tiny.yaml", *SHORT))


def test_a_run_leaves_models_that_load(first):
    codec = load_autoencoder(first)
    assert codec.size == (16, 16) and codec.frames == 4
    for name in ("model_last.pth", "ema_model_last.pth", "model_best.pth"):
        assert checkpoint.load(first / name)["kind"] == "autoencoder"


def test_a_run_starts_from_a_models_weights(tmp_path):
    net = autoencoder(first_config(), seed=5)
    checkpoint.save(tmp_path / "model.pth", autoencoder_payload(net))
    cfg = first_config("tiny.yaml", *SHORT, "optim.lr=1e-12", "optim.weight_decay=0")
    run = train(tmp_path / "run", cfg, init_from=str(tmp_path / "model.pth"))
    for key, value in states(run)["net"].items():
        torch.testing.assert_close(value, net.state_dict()[key], atol=1e-8, rtol=0.0)


def test_the_adversarial_run_continues_the_last_checkpoint(first, tmp_path):
    cfg = first_config("tiny_gan.yaml", *SHORT, "loss.critic_warmup=3")  # the autoencoder stays as it is
    run = train(tmp_path / "gan", cfg, first_stage_folder=str(first))
    before, after = states(first), states(run)
    assert all(torch.equal(after["net"][key], value) for key, value in before["net"].items())
    assert after["reference"]["psnr"] > 0 and after["adversary"] is not None
    assert f"starting from {first}" in (run / "log.txt").read_text()


def test_folders_without_a_first_stage_are_refused(tmp_path):
    cfg = first_config("tiny_gan.yaml", *SHORT)
    with pytest.raises(ValueError, match="holds no checkpoints"):
        train(tmp_path / "run", cfg, first_stage_folder=str(tmp_path / "nowhere"))
    checkpoint.save(checkpoint.step_path(tmp_path / "other" / "checkpoints", 1), {"step": 1, "stage": {"kind": "diffusion"}})
    with pytest.raises(ValueError, match="not of a first stage"):
        train(tmp_path / "run", cfg, first_stage_folder=str(tmp_path / "other"))


def test_settings_of_another_network_are_refused():
    config = first_config("tiny.yaml").model
    check_model(config, config, "it")
    check_model(replace(config, options=dict(config.options)), config, "it")
    with pytest.raises(ValueError, match=r"contradicts it: depth 3 \(the model has 1\)"):
        check_model(replace(config, depth=3), config, "it")
    with pytest.raises(ValueError, match=r"released False \(the model has True\)"):
        check_model(config, replace(config, options={**config.options, "released": True}), "it")
