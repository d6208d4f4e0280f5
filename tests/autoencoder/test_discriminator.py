"""Critics work at every size and judge each sample alone."""

import pytest
import torch
import torch.nn.functional as F

from autoencoder.discriminator import CriticConfig, Critics, PatchCritic
from autoencoder.losses import critic_hinge, generator_hinge, gradient_penalty

SMALL = dict(channels=8, layers=2)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("size", [(64, 64), (32, 48), (8, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shape_is_judged(frames, size, channels):
    critics = Critics(channels, CriticConfig(**SMALL), frames=frames)
    clip = torch.randn(2, channels, frames, *size)
    for verdict in critics(clip, clip[:, :, 0]):
        assert verdict.logits.shape[:2] == (2, 1) and verdict.logits.numel() > 0
        assert len(verdict.features) == 3 and all(torch.isfinite(f).all() for f in verdict.features)


def test_published_sizes():
    critic = PatchCritic(3, CriticConfig(), dims=2)
    convs = [layer[0] for layer in critic.layers]
    assert [c.out_channels for c in convs] == [64, 128, 256, 512, 1]
    assert [c.stride[0] for c in convs] == [2, 2, 2, 1, 1]


def test_temporal_kernels_fit_the_clip():
    one = PatchCritic(3, CriticConfig(**SMALL), dims=3, frames=1)
    assert all(layer[0].kernel_size[0] == layer[0].stride[0] == 1 for layer in one.layers)
    long = PatchCritic(3, CriticConfig(**SMALL), dims=3, frames=16)
    assert long.layers[0][0].kernel_size == (4, 4, 4)


def test_clip_critic_takes_other_lengths():
    critic = PatchCritic(3, CriticConfig(**SMALL), dims=3, frames=16)
    for frames in (1, 2, 16, 20):
        assert critic(torch.randn(1, 3, frames, 16, 16)).logits.numel() > 0


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("spectral", [False, True])
def test_samples_do_not_mix(norm, spectral):
    cfg = CriticConfig(**SMALL, norm=norm, spectral=spectral)
    critic = PatchCritic(3, cfg, dims=3, frames=4).double().eval()
    clip = torch.randn(3, 3, 4, 16, 16, dtype=torch.float64)
    alone = torch.cat([critic(c[None]).logits for c in clip])
    torch.testing.assert_close(critic(clip).logits, alone)


def test_batch_norm_mixes_samples_without_a_process_group():
    critic = PatchCritic(3, CriticConfig(**SMALL, norm="batch"), dims=2)
    frames = torch.randn(3, 3, 16, 16)
    assert not torch.allclose(critic(frames).logits[:1], critic(frames[:1]).logits)


def test_frame_order_matters_to_the_clip_critic_only():
    critics = Critics(3, CriticConfig(**SMALL), frames=4)
    clip = torch.randn(1, 3, 4, 16, 16)
    (frame, straight), (same, turned) = critics(clip, clip[:, :, 0]), critics(clip.flip(2), clip[:, :, 0])
    assert torch.equal(frame.logits, same.logits)
    assert not torch.allclose(straight.logits, turned.logits)


def test_spectral_norm_bounds_every_kernel():
    critic = PatchCritic(3, CriticConfig(**SMALL, spectral=True), dims=2)
    for _ in range(50):  # power iterations
        critic(torch.randn(1, 3, 8, 8))
    for layer in critic.layers:
        assert torch.linalg.matrix_norm(layer[0].weight.flatten(1), 2) < 1.01


def fresh_noise(seed, count=8):
    return torch.randn((count, 1, 2, 12, 12), generator=torch.Generator().manual_seed(seed))


def blurred(clip):
    return F.avg_pool3d(clip, (1, 3, 3), 1, (0, 1, 1)) * 2


@pytest.mark.parametrize("norm", ["group", "none", "batch"])
@pytest.mark.parametrize("spectral", [False, True])
def test_hinge_teaches_what_is_real_and_the_way_there(norm, spectral):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = PatchCritic(1, CriticConfig(**SMALL, norm=norm, spectral=spectral), dims=3, frames=2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for step in range(40):
        real, fake = fresh_noise(step), blurred(fresh_noise(1000 + step))
        loss = critic_hinge(*critic(torch.cat([real, fake])).logits.chunk(2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = fresh_noise(5000), blurred(fresh_noise(6000)).requires_grad_()
    verdicts = critic.requires_grad_(False)(torch.cat([real, fake])).logits.chunk(2)
    assert verdicts[0].mean() > verdicts[1].mean() + 0.5
    (grad,) = torch.autograd.grad(generator_hinge(verdicts[1]).mean(), fake)
    better = critic(torch.cat([real, fake - 0.1 * grad / grad.square().mean().sqrt()])).logits.chunk(2)[1]
    assert better.mean() > verdicts[1].mean()


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("spectral", [False, True])
def test_gradient_penalty_trains_every_kernel(norm, spectral):
    critic = PatchCritic(3, CriticConfig(**SMALL, norm=norm, spectral=spectral), dims=3, frames=2)
    clip = torch.randn(2, 3, 2, 16, 16, requires_grad=True)
    gradient_penalty(critic(clip).logits, clip).mean().backward()
    kernels = [p for name, p in critic.named_parameters() if p.ndim == 5]
    assert len(kernels) == 4 and all(p.grad.abs().sum() > 0 for p in kernels)


@pytest.mark.parametrize("wrong", [{"norm": "sync"}, {"layers": 0}, {"kernel": 1}, {"channels": 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=f"critic.{next(iter(wrong))}"):
        CriticConfig(**wrong)
