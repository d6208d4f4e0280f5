"""The first stage's update and measurements, against hand computations."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from fakes import autoencoder, first_config, micro, video

from autoencoder.codec import load_autoencoder, per_position
from autoencoder.spectrum import high_frequency_energy
from autoencoder.stage import AutoencoderStage
from evals.protocol import METRICS
from tools.rng import batch_randn
from tools.video import to_clip, to_frames

INDEX = torch.tensor([3, 40, 5, 60, 7, 80, 9, 10])
LINEAR = ("optim.eps=1e-3", "optim.lr=1e-2", "optim.warmup=0")  # rounding must not decide the sign of an update


def make_stage(*overrides, name="tiny.yaml", seed=0):
    cfg = first_config(name, *overrides)
    return AutoencoderStage(cfg, autoencoder(cfg, seed), video(4, 4, seed=9), asdict(cfg.model))


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_loss_and_gradient_equal_a_hand_computation():
    stage = make_stage("loss.pixel=l2", "loss.pixel_weight=3.0", "train.held_frames=0", "train.latent_noise=0", *LINEAR)
    frames = video(8, 4)
    net = copy.deepcopy(stage.net)
    loss = 3.0 * (net(to_clip(frames)).clip - to_clip(frames)).square().mean()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    logs = stage.train_step(0, micro(frames, INDEX, 8), 8)
    torch.testing.assert_close(logs["loss"], loss.detach())
    torch.testing.assert_close(logs["l2"], loss.detach() / 3)
    torch.testing.assert_close(logs["gradient"], norm)


def test_any_cut_of_a_batch_makes_the_same_update():
    options = ("train.latent_noise=0.1", "train.shift=2", "train.flip=0.5", "train.held_frames=0.5", "loss.pixel=log_l2",
               *LINEAR)
    one, many = make_stage(*options), make_stage(*options)
    for step in range(3):
        frames, index = video(8, 4, seed=step), INDEX + 100 * step
        logs = one.train_step(step, micro(frames, index, 8), 8), many.train_step(step, micro(frames, index, 2), 8)
        torch.testing.assert_close(*(log["loss"] for log in logs))
    for p, q in zip(weights(one.net), weights(many.net)):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0.0)
    for a, b in zip(one.stats.mean_std(), many.stats.mean_std()):
        torch.testing.assert_close(a, b)


def test_statistics_are_of_the_latents_that_were_made():
    stage = make_stage("train.held_frames=0")
    frames = video(8, 4)
    latent = stage.net.encode(to_clip(frames)).detach()
    stage.train_step(0, micro(frames, INDEX, 4), 8)
    mean, std = stage.stats.mean_std()
    for i, plane in enumerate(latent.split(stage.net.shape.sizes, dim=-1)):
        torch.testing.assert_close(mean[i], plane.mean((0, 2)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(std[i], plane.transpose(0, 1).flatten(1).std(1, unbiased=False), atol=1e-5, rtol=1e-4)


def test_latent_noise_is_in_units_of_each_planes_deviation():
    stage = make_stage("train.latent_noise=0.25")
    assert make_stage("train.latent_noise=0")._noise(INDEX) is None
    stage.train_step(0, micro(video(8, 4), INDEX, 8), 8)
    noise, shape = stage._noise(INDEX), stage.net.shape
    drawn = batch_randn((4, shape.total), INDEX, stage.cfg.train.seed, "latent noise")
    torch.testing.assert_close(noise / drawn, (0.25 * per_position(stage.stats.mean_std()[1], shape)).expand_as(noise))


def test_validation_measures_as_evals_does():
    stage = make_stage()
    stage.train_step(0, micro(video(8, 4), INDEX, 8), 8)  # the averages now differ from the weights
    net = copy.deepcopy(stage.net)
    net.load_state_dict(stage.ema.weights())
    with torch.no_grad():
        recon = to_frames(net.eval()(to_clip(stage.validation)).clip)
    psnr = METRICS.get("psnr")()
    psnr.update(stage.validation, recon)
    made, real = (float(high_frequency_energy(to_clip(x)).sum()) for x in (recon, stage.validation))
    result = stage.validate(1)
    assert result["psnr"] == pytest.approx(psnr.compute()["mean"], abs=1e-4)
    assert 10 ** (result["detail_db"] / 10) == pytest.approx(made / real, rel=1e-4)


def test_validation_does_not_depend_on_its_micro_batch():
    assert make_stage("loop.micro_batch=1").measure() == pytest.approx(make_stage("loop.micro_batch=4").measure(), rel=1e-5)


def test_looking_leaves_the_training_as_it_was(tmp_path):
    stage, other = make_stage("train.latent_noise=0.1"), make_stage("train.latent_noise=0.1")
    for step in range(3):
        batch = micro(video(8, 4, seed=step), INDEX, 4)
        stage.train_step(step, batch, 8)
        before = torch.get_rng_state()
        stage.validate(step)
        stage.sample(step, tmp_path)
        stage.export(step, tmp_path, "last")
        assert torch.equal(torch.get_rng_state(), before) and stage.net.training
        other.train_step(step, batch, 8)
    assert equal(weights(stage.net), weights(other.net))
    assert sorted(p.suffix for p in tmp_path.glob("step-*")) == [".mp4"] * 3 + [".png"] * 3


def test_exported_files_are_whole_models(tmp_path):
    stage = make_stage()
    stage.train_step(0, micro(video(8, 4), INDEX, 8), 8)
    stage.export(1, tmp_path, "last")
    stage.export(1, tmp_path, "best")
    raw, ema, best = (load_autoencoder(tmp_path, weights) for weights in ("raw", "ema", "best"))
    assert equal(weights(raw.net), weights(stage.net)) and not equal(weights(ema.net), weights(stage.net))
    assert equal(weights(ema.net), weights(best.net))
    torch.testing.assert_close(raw.std, per_position(stage.stats.mean_std()[1], stage.net.shape))


def test_another_run_is_continued_under_this_runs_settings():
    first = make_stage("optim.weight_decay=0.3", "optim.betas=[0.5,0.6]")
    first.train_step(0, micro(video(8, 4), INDEX, 8), 8)
    second = make_stage("optim.weight_decay=0.1", "optim.betas=[0.8,0.95]", name="tiny_gan.yaml", seed=1)
    second.continue_from(first.state(), "elsewhere")
    assert equal(weights(second.net), weights(first.net))
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0.1, 0.0]
    assert all(tuple(group["betas"]) == (0.8, 0.95) for group in second.optimizer.param_groups)
    moments = [o.state_dict()["state"][0]["exp_avg"] for o in (first.optimizer, second.optimizer)]
    assert torch.equal(*moments)
    assert second.reference == {}  # what this run starts from is measured by take_reference()
    second.take_reference()
    assert second.reference == first.measure()


@pytest.mark.parametrize("psnr, detail, gap", [(30.0, -2.0, 2.0), (29.6, 1.5, 1.5), (29.0, 0.0, 5.0), (35.0, 0.5, 0.5)])
def test_the_best_of_an_adversarial_run_is_sharp_at_a_guarded_psnr(monkeypatch, psnr, detail, gap):
    stage = make_stage("train.psnr_guard=0.5", name="tiny_gan.yaml")
    stage.reference = {"psnr": 30.0, "detail_db": -6.0}
    monkeypatch.setattr(stage, "measure", lambda: {"psnr": psnr, "detail_db": detail})
    assert stage.validate(1)["sharpness_gap"] == pytest.approx(gap)
    assert stage.best == ("sharpness_gap", "min") and make_stage().best == ("psnr", "max")


def test_autocast_and_recomputation_change_little():
    exact = make_stage("train.held_frames=0")
    frames = micro(video(8, 4), INDEX, 8)
    loss = float(exact.train_step(0, frames, 8)["loss"])
    again = make_stage("train.held_frames=0", "train.grad_checkpoint=true")
    assert float(again.train_step(0, frames, 8)["loss"]) == pytest.approx(loss)
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(weights(exact.net), weights(again.net)))
    narrow = make_stage("train.held_frames=0", "train.autocast=bf16")
    assert float(narrow.train_step(0, frames, 8)["loss"]) == pytest.approx(loss, rel=0.05)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    stage = make_stage()
    with torch.no_grad():
        next(stage.net.parameters()).view(-1)[0] = torch.nan
    before = weights(stage.net)
    with pytest.raises(FloatingPointError, match="step 4"):
        stage.train_step(4, micro(video(8, 4), INDEX, 8), 8)
    assert all(torch.equal(p.nan_to_num(), q.nan_to_num()) for p, q in zip(weights(stage.net), before))


def test_settings_of_the_clip_are_said_once():
    with pytest.raises(ValueError, match=r"model\.frames=8 contradicts data\.frames=4"):
        first_config("tiny.yaml", "model.frames=8")
    cfg = first_config("tiny.yaml", "data.resolution=[16,24]", "data.channels=1")
    assert cfg.model.size == (16, 24) and cfg.model.in_channels == 1
    assert replace(cfg.model, resolution=16).size == (16, 16)
