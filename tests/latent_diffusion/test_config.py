"""The second stage's settings: what is refused, alone and together."""

import pytest
from omegaconf import OmegaConf

from latent_diffusion.config import DiffusionStageConfig, DiffusionTrainConfig, HistoryNoiseConfig
from latent_diffusion.process import PARAMETRISATIONS, ProcessConfig
from latent_diffusion.schedule import ScheduleConfig
from tools.loop import LoopConfig

RESIDUAL = {"name": "concat", "residual": True}


@pytest.mark.parametrize("setting, message", [
    ({"autocast": "half"}, r"train\.autocast=half .*none or bf16"),
    ({"flip": -0.5}, r"train\.flip .*0\.\.1, got -0\.5"),
    ({"flip": 1.01}, r"train\.flip .*got 1\.01"),
    ({"validation_clips": 0}, r"at least 1, got 0 and 20"),
    ({"sample_steps": 0}, r"at least 1, got 32 and 0"),
    ({"shift": -1}, r"train\.shift .*-1"),
    ({"panel_clips": -1}, r"train\.panel_clips .*0 .*to 32, got -1"),
    ({"panel_clips": 33}, r"train\.panel_clips .*to 32, got 33"),
    ({"panel_clips": 1, "panel_fvd": True}, r"train\.panel_fvd=true needs train\.panel_clips of at least 2, got 1"),
])
def test_nonsense_is_refused_with_its_value(setting, message):
    with pytest.raises(ValueError, match=message):
        DiffusionTrainConfig(**setting)


def test_the_metric_that_picks_the_best_is_one_that_is_measured():
    assert DiffusionStageConfig().best() == ("loss", "min")
    panel = DiffusionTrainConfig(panel_clips=4)
    for name in ("panel/psnr_pooled", "panel/ssim"):
        assert DiffusionStageConfig(train=panel, loop=LoopConfig(sample_every=5, best=name)).best() == (name, "max")
    with pytest.raises(ValueError, match=r"loop\.best=panel/ssim needs train\.panel_clips above 0"):
        DiffusionStageConfig(loop=LoopConfig(sample_every=5, best="panel/ssim"))
    with pytest.raises(ValueError, match=r"train\.panel_clips=4 .*loop\.sample_every=0"):
        DiffusionStageConfig(train=panel)
    with pytest.raises(ValueError, match="known: loss, panel/psnr_pooled, panel/ssim"):
        DiffusionStageConfig(loop=LoopConfig(best="psnr"))


@pytest.mark.parametrize("setting", [{"sigma": 1.5}, {"sigma": -0.1}, {"rate": 0.0}, {"rate": 1.1}])
def test_history_noise_has_a_range(setting):
    with pytest.raises(ValueError, match=r"train\.history_noise needs sigma in 0\.\.1"):
        HistoryNoiseConfig(**setting)


def test_history_noise_needs_a_network_that_is_told_and_the_other_way_round():
    noisy, told = DiffusionTrainConfig(history_noise=HistoryNoiseConfig(0.3)), {"name": "concat", "history": True}
    for options in ({"train": noisy}, {"condition": told}):
        with pytest.raises(ValueError, match="set both, or neither"):
            DiffusionStageConfig(**options)
    assert DiffusionStageConfig(train=noisy, condition=told).train.history_noise == HistoryNoiseConfig(0.3, 0.5)


@pytest.mark.parametrize("setting, message", [
    ({"mask": {"name": "fmd"}}, r'unknown mask sampler "fmd" \(did you mean "fdm"\?\)'),
    ({"mask": {"name": "fdm", "max_frame": 3}}, 'no option "max_frame"'),
    ({"mask": {"name": "mixture", "parts": [{"name": "prefix"}, {"name": "fmd"}]}}, 'unknown mask sampler "fmd"'),
    ({"mask": {"name": "mixture", "parts": "fdm"}}, "a list of samplers"),
    ({"condition": {"name": "windows"}}, 'unknown condition "windows"'),
    ({"condition": {"name": "window", "slot": 3}}, 'no option "slot"'),
])
def test_masks_and_conditions_are_refused_before_any_model_is_read(setting, message):
    with pytest.raises(ValueError, match=message):
        DiffusionStageConfig(**setting)


def test_fdm_counts_frames_only_where_it_observes_frames():
    gaps, frames = {"name": "window", "spacing": "gaps"}, {"name": "fdm", "max_frames": 8}
    for mask in (frames, {"name": "mixture", "parts": [{"name": "mixture", "parts": [frames]}, {"name": "run"}]}):
        with pytest.raises(ValueError, match=r"mask\.max_frames=8 is not read; leave it out, condition\.slots"):
            DiffusionStageConfig(condition=gaps, mask=mask)
        assert DiffusionStageConfig(condition={"name": "window"}, mask=mask).mask == mask
    assert DiffusionStageConfig(condition=gaps, mask={"name": "fdm"}).mask == {"name": "fdm"}


def test_the_ends_of_a_range_belong_to_it():
    ends = {"flip": 1, "autocast": "bf16", "validation_clips": 1, "sample_steps": 1, "shift": 0}
    assert vars(DiffusionTrainConfig(**ends)).items() >= ends.items()


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_only_a_network_that_says_x0_adds_to_the_clip_before(name):
    settings = {"condition": RESIDUAL, "process": ProcessConfig(parametrisation=name),
                "schedule": ScheduleConfig(name="sqrt_linear", start=0.0015, end=0.0195)}  # which every network may have
    if name == "x0":
        assert DiffusionStageConfig(**settings).condition["residual"]
        return
    with pytest.raises(ValueError, match=rf"condition\.residual needs .*x0, got {name}"):
        DiffusionStageConfig(**settings)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_network_is_asked_only_for_what_the_noisiest_level_can_tell(name):
    settings = {"process": ProcessConfig(parametrisation=name), "schedule": ScheduleConfig(name="cosine")}
    if name != "eps":
        assert DiffusionStageConfig(**settings).process.parametrisation == name
        return
    with pytest.raises(ValueError, match="eps cannot start from pure noise"):
        DiffusionStageConfig(**settings)


def test_plug_ins_of_two_configurations_are_not_shared():
    one, other = DiffusionStageConfig(), DiffusionStageConfig()
    one.mask["rate"] = 0.9
    one.condition["sees"] = []
    assert other == DiffusionStageConfig() != one


def test_nothing_is_filled_in_from_the_data():
    merged = OmegaConf.merge(OmegaConf.structured(DiffusionStageConfig), {"data": {"frames": 4, "resolution": 16}})
    assert DiffusionStageConfig.settle(merged.copy()) == merged  # the autoencoder given says the sizes
