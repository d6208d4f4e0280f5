"""The game against critics: who learns when, from which losses, and the same for every cut of a batch."""

from dataclasses import asdict, replace

import pytest
import torch
from fakes import autoencoder, first_config, micro, video

from autoencoder import losses
from autoencoder.adversary import CRITICS, Adversary
from autoencoder.stage import AutoencoderStage
from tools import checkpoint
from tools.optim import make_optimizer
from tools.rng import batch_rand, fork

CPU = torch.device("cpu")
INDEX = torch.arange(8)


def make_stage(*overrides):
    """A stage whose updates are linear in small gradients, so that rounding does not decide their sign."""
    cfg = first_config("tiny_gan.yaml", "loss.critic_warmup=1", "loss.ramp=1", "optim.eps=1e-3", "optim.lr=1e-2",
                       "optim.warmup=0", "train.held_frames=0", *overrides)
    with fork(0, "critics"):
        stage = AutoencoderStage(cfg, autoencoder(cfg), video(2, 4, seed=9), asdict(cfg.model))
    stage.adversary.optim = replace(stage.adversary.optim, eps=1e-3, lr=1e-2, warmup=0)
    stage.adversary.optimizer = make_optimizer(stage.adversary.critics, stage.adversary.optim)
    stage.take_reference()
    return stage


def train(stage, first, last, cut=8):
    logs = [stage.train_step(step, micro(video(8, 4, seed=step), INDEX + 8 * step, cut), 8) for step in range(first, last)]
    return [{name: float(value) for name, value in log.items()} for log in logs]


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_only_the_critics_learn_in_warm_up():
    stage = make_stage("loss.critic_warmup=2")
    before, critics = weights(stage.net), weights(stage.adversary.critics)
    logs = train(stage, 0, 2)
    assert equal(weights(stage.net), before) and equal(stage.ema.copies[0.98], [p.float() for p in before])
    assert not equal(weights(stage.adversary.critics), critics)
    assert "loss" not in logs[0] and logs[0]["critic"] > 0
    train(stage, 2, 3)
    assert not equal(weights(stage.net), before)


def test_critics_get_no_gradient_from_the_autoencoders_pass():
    stage = make_stage("loss.weight_mode=ramp")
    adversary, clip = stage.adversary, torch.rand(2, 3, 4, 16, 16) * 2 - 1
    made = stage.net(clip).clip
    pick = torch.zeros(2, 1, dtype=torch.long)
    loss = adversary.against(5, made.square().mean(), clip, made, pick, 2, stage.net.last_weight, {})
    loss.backward()
    assert all(p.grad is None and p.requires_grad for p in adversary.critics.parameters())
    assert stage.net.last_weight.grad.abs().sum() > 0


def test_the_autoencoder_gets_no_gradient_from_the_critics_pass():
    stage = make_stage()
    train(stage, 0, 3)
    assert all(p.grad is None for p in stage.net.parameters())
    assert all(p.grad is None for p in stage.adversary.critics.parameters())  # used up by their own update


def test_losses_equal_their_definitions():
    stage = make_stage("loss.weight_mode=ramp", "loss.perceptual_frames=2")
    adversary, cfg = stage.adversary, stage.cfg.loss
    clip, made = torch.rand(2, 2, 3, 4, 16, 16) * 2 - 1
    pick, logs = torch.tensor([[0, 2], [3, 1]]), {}
    part = adversary.against(1, made.mean(), clip, made, pick, 2, stage.net.last_weight, logs)
    frames, shown = ([x[b, :, t] for b, row in enumerate(pick.tolist()) for t in row] for x in (clip, made))
    hinge, matching = 0.0, 0.0
    for critic, real, fake in ((adversary.critics.frame, torch.stack(frames), torch.stack(shown)),
                               (adversary.critics.clip, clip, made)):
        truth, verdict = critic(real), critic(fake)
        hinge = hinge - verdict.logits.mean()
        matching = matching + sum((a - b).abs().mean() for a, b in zip(truth.features, verdict.features))
    torch.testing.assert_close(part, cfg.adversarial_weight * (hinge + cfg.feature_weight * matching))
    torch.testing.assert_close(logs["hinge"], hinge.detach())


def test_each_critic_has_its_own_lecam():
    stage = make_stage()
    adversary = stage.adversary
    real, made = torch.rand(2, 4, 3, 4, 16, 16) * 2 - 1
    pick = torch.tensor([[0], [3], [1], [1]])
    with torch.no_grad():
        judged = [[verdict.logits.mean() for verdict in adversary.critics(x, losses.take_frames(x, pick))]
                  for x in (real, made)]
    logs = adversary.learn(0, [(real, made, pick)], 4)
    for i, name in enumerate(CRITICS):
        assert adversary.lecams[i].real == pytest.approx(float(judged[0][i]), abs=1e-6)
        assert adversary.lecams[i].fake == pytest.approx(float(judged[1][i]), abs=1e-6)
        assert logs[f"logit_{name}_real"] == adversary.lecams[i].real
    assert abs(adversary.lecams[0].real - adversary.lecams[1].real) > 1e-4


@pytest.mark.parametrize("options", [(), ("loss.r1=0.1", "loss.r1_every=2", "loss.lecam=0.1"), ("loss.weight_mode=ramp",)])
def test_any_cut_of_a_batch_makes_the_same_update(options):
    one, many = make_stage(*options), make_stage(*options)
    logs, cut_logs = train(one, 0, 3, cut=8), train(many, 0, 3, cut=4)
    for a, b in zip(logs, cut_logs):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    for a, b in ((one.net, many.net), (one.adversary.critics, many.adversary.critics)):
        for p, q in zip(weights(a), weights(b)):
            torch.testing.assert_close(p, q, atol=3e-5, rtol=0.0)  # Adam divides small gradients by themselves
    assert one.adversary.balance() == pytest.approx(many.adversary.balance(), rel=1e-4)
    for a, b in zip(one.adversary.lecams, many.adversary.lecams):
        assert a.state_dict() == pytest.approx(b.state_dict(), abs=1e-5)


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    stage = make_stage()
    adversary, clip = stage.adversary, torch.rand(4, 3, 4, 16, 16) * 2 - 1
    pick = torch.zeros(4, 1, dtype=torch.long)
    made = stage.net(clip).clip
    reconstruction = (made - clip).square().mean()
    part = adversary.against(1, reconstruction, clip, made, pick, 4, stage.net.last_weight, {})
    assert part == 0  # nothing has been balanced yet
    wanted = losses.adaptive_weight(*adversary.gradients, limit=adversary.balance.limit)
    adversary.learn(1, [(clip, made.detach(), pick)], 4)
    assert adversary.balance.value == wanted and adversary.weight(1) == pytest.approx(0.1 * wanted)
    (grad,) = torch.autograd.grad(reconstruction, stage.net.last_weight)
    assert 0 < wanted <= float(grad.norm()) / 1e-4


def test_weight_grows_after_warm_up():
    adversary = make_stage("loss.weight_mode=ramp", "loss.critic_warmup=10", "loss.ramp=4",
                           "loss.adversarial_weight=2.0").adversary
    assert [adversary.weight(step) for step in (0, 9, 10, 11, 13, 50)] == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]
    assert adversary.warming_up(9) and not adversary.warming_up(10)


def test_critics_learn_to_tell():
    cfg = first_config("tiny_gan.yaml", "loss.critic_warmup=100", "loss.critic_lr=5e-3")
    with fork(1, "critics"):
        adversary = Adversary(cfg, CPU)
    logs = []
    for step in range(25):
        real = batch_rand((3, 4, 16, 16), INDEX + 8 * step, 0, "real") * 2 - 1
        smooth = real.mean((-2, -1), keepdim=True).expand_as(real)
        logs.append(adversary.learn(step, [(real, smooth, torch.zeros(8, 1, dtype=torch.long))], 8))
    assert logs[-1]["critic"] < 0.5 * logs[0]["critic"]
    assert all(logs[-1][f"logit_{name}_real"] > logs[-1][f"logit_{name}_made"] for name in CRITICS)


def test_state_continues_bit_for_bit(tmp_path):
    options = ("loss.lecam=0.1", "loss.r1=0.1", "loss.r1_every=2")
    whole, first, second = make_stage(*options), make_stage(*options), make_stage(*options)
    train(whole, 0, 4)
    train(first, 0, 2)
    checkpoint.save(tmp_path / "state.pt", {"stage": first.state()})
    second.load_state(checkpoint.load(tmp_path / "state.pt")["stage"])
    train(second, 2, 4)
    assert equal(weights(second.net), weights(whole.net))
    assert equal(weights(second.adversary.critics), weights(whole.adversary.critics))
    for part in ("lecam", "balance"):
        assert second.adversary.state_dict()[part] == whole.adversary.state_dict()[part]
