"""The validation panel: numbers against closed forms, always the same windows and noise, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from fakes import autoencoder, diffusion_config, diffusion_stage, first_config, given, video

from autoencoder.codec import Codec
from latent_diffusion.panel import FVD, Panel, half_known
from tools.rng import randn

KNOWN = given(8, 0, 1, 2, 3)
SMALL = ("unet.mult=[1]", "unet.attention=[1]", "train.sample_steps=1", "loop.sample_every=5", "loop.micro_batch=2")
MASKED = ("condition.sees=[past,self,future]", "condition.mask=true")  # windows of three clips


class Model:
    """Makes of a video what a function of it and of its row's id says; what is known it spoils, which nobody should see."""

    def __init__(self, make, codec=None):
        self.make, self.asked = make, []
        self.model = SimpleNamespace(codec=SimpleNamespace(device=torch.device("cpu")))

    def complete(self, frames, known, *, ids, steps):
        self.asked.append((len(frames), steps))
        made = torch.stack([self.make(row.int(), number) for row, (number, _) in zip(frames, ids, strict=True)])
        made[:, known] += 50
        return made.clamp(0, 255).to(torch.uint8)


class Means:
    """Describes a video by its mean grey level, and by that of its last frame."""
    dim = 2

    def features(self, frames):
        return torch.stack([frames.float().mean((1, 2, 3, 4)), frames[:, -1].float().mean((1, 2, 3))], 1)


def ramp(windows=3, slope=2):
    """Videos of which every frame is `slope` brighter than the one before."""
    return (video(windows, 1, seed=1).int().clamp(60, 190) + slope * torch.arange(8)[:, None, None, None]).to(torch.uint8)


def stage_of(*settings):
    return diffusion_stage(diffusion_config(*SMALL, "train.panel_clips=3", *settings), Codec(autoencoder(first_config())))


def test_errors_are_those_of_the_made_frames_alone():
    values = Panel(ramp(), KNOWN, steps=7).measure(Model(lambda frames, _: frames + 5), 8)
    assert values["psnr_pooled"] == pytest.approx(float(20 * torch.tensor(255 / 5).log10()), abs=1e-5)
    assert values["clips"] == 3


def test_repeat_last_is_measured_beside_the_model():
    values = Panel(ramp(slope=2), KNOWN, steps=7).measure(Model(lambda frames, _: frames), 8)
    error = sum((2 * k) ** 2 for k in (1, 2, 3, 4)) / 4  # of the last known frame, k frames later
    assert values["repeat_last/psnr_pooled"] == pytest.approx(float(10 * torch.tensor(255**2 / error).log10()), abs=1e-5)
    assert values["psnr_pooled"] == 100 and values["ssim"] == pytest.approx(1) and 0.5 < values["repeat_last/ssim"] < 1


def test_noise_belongs_to_a_window_and_not_to_its_place_in_a_batch():
    def noisy(frames, number):
        return frames + (4 * randn(tuple(frames.shape), number)).round().int()
    model = Model(noisy)
    together, alone = (Panel(ramp(), KNOWN, steps=7).measure(model, at_once) for at_once in (3, 2))
    assert together == alone and 30 < together["psnr_pooled"] < 40
    assert model.asked == [(3, 7), (2, 7), (1, 7)]


def test_fvd_is_that_of_whole_windows():
    # A shift moves both means and no covariance: |shift|^2. Known frames are shifted by 50 more, half of the first mean.
    truth = ramp(4).clamp(max=150)
    values = Panel(truth, KNOWN, steps=7, i3d=Means()).measure(Model(lambda frames, _: frames + 8), 3)
    assert values[FVD] == pytest.approx((8 + 25) ** 2 + 8**2, rel=1e-4)
    assert "fvd" not in " ".join(Panel(truth, KNOWN, steps=7).measure(Model(lambda frames, _: frames), 3))


@pytest.mark.parametrize("sees, frames, known", [
    (["past"], 8, 4), (["past", "self", "future"], 12, 4), (["anchor", "past"], 16, 8), (["past"], 9, 4),
    (["self"], 4, 2), (["self", "future"], 8, 2), (["past", "self"], 4, 2)])
def test_half_of_a_window_is_known_in_whole_clips_where_the_past_is_seen(sees, frames, known):
    mask = half_known(SimpleNamespace(sees=sees, observes=False), 4, frames)
    assert mask.sum() == known and mask[:known].all() and len(mask) == (frames // 4 * 4 if "past" in sees else 4)


@pytest.mark.parametrize("sees, clip, frames", [([], 4, 8), (["past"], 4, 4), (["self"], 1, 1), (["future"], 4, 8)])
def test_a_training_that_continues_nothing_has_no_panel(sees, clip, frames):
    with pytest.raises(ValueError, match=r"this training knows nothing of a window .*train\.panel_clips=0"):
        half_known(SimpleNamespace(sees=sees, observes=False), clip, frames)


def test_the_averaged_weights_are_measured_at_the_same_noise_each_time():
    stage = stage_of()
    first = stage.panel(5)
    torch.manual_seed(1)
    with torch.no_grad():
        stage.net.unet.conv_out.weight += 0.1  # the average has not moved
    assert stage.panel(10) == first and stage.net.training and first["clips"] == 3
    stage.ema.update(stage.net, 0)
    assert stage.panel(15)["psnr_pooled"] != first["psnr_pooled"]


def test_only_the_first_windows_are_in_the_panel_and_half_of_each_is_known():
    stage = stage_of(*MASKED)
    assert torch.equal(stage.predicted.truth, stage.validation[:3])
    assert stage.predicted.known.tolist() == 4 * [True] + 8 * [False]


def test_without_clips_there_is_no_panel():
    stage = stage_of("train.panel_clips=0")
    assert stage.panel(5) == {}


def test_frames_that_ssim_cannot_measure_are_refused():
    with pytest.raises(ValueError, match=r"train\.panel_clips=3: ssim needs frames of at least 11 .*got 2x2; change") as error:
        diffusion_stage(diffusion_config(*SMALL, "train.panel_clips=3"))
    assert "\n" not in str(error.value) and "--" not in str(error.value)


def test_windows_too_short_for_i3d_are_refused():
    with pytest.raises(ValueError, match=r"train\.panel_fvd=true: I3D looks at 10 frames or more, got windows of 8"):
        stage_of("train.panel_fvd=true")


def test_without_weights_an_fvd_is_refused_at_the_start(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"train\.panel_fvd=true: the weights i3d .*download --name i3d") as error:
        stage_of(*MASKED, "train.panel_fvd=true")
    assert "\n" not in str(error.value)
    monkeypatch.setattr("latent_diffusion.panel.load_i3d", Means)
    assert stage_of(*MASKED, "train.panel_fvd=true").panel(5)[FVD] > 0
