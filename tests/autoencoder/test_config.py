"""The first stage's settings: what is refused, and what the model takes from the data."""

from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from autoencoder.config import AutoencoderTrainConfig, FirstStageConfig
from autoencoder.model import AutoencoderConfig
from tools.clips import DataConfig


def settled(**sections):
    """The configuration that a YAML of these sections makes."""
    merged = OmegaConf.merge(OmegaConf.structured(FirstStageConfig), OmegaConf.create(sections))
    return OmegaConf.to_object(FirstStageConfig.settle(merged))


@pytest.mark.parametrize("setting, message", [
    ({"autocast": "fp16"}, r"train\.autocast=fp16 .*none or bf16"),
    ({"held_frames": -0.1}, r"train\.held_frames .*0\.\.1, got -0\.1"),
    ({"flip": 1.5}, r"train\.flip .*got 1\.5"),
    ({"reverse": 2}, r"train\.reverse .*got 2"),
    ({"latent_noise": -1.0}, r"train\.latent_noise .*-1\.0"),
    ({"shift": -3}, r"train\.shift .*-3"),
    ({"validation_clips": 0}, r"train\.validation_clips must be at least 1, got 0"),
    ({"flip": float("nan")}, r"train\.flip"),
])
def test_nonsense_is_refused_with_its_value(setting, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderTrainConfig(**setting)


@pytest.mark.parametrize("weight, asked, wanted", [
    (0.0, None, ("psnr", "max")), (0.1, None, ("sharpness_gap", "min")), (0.1, "psnr", ("psnr", "max"))])
def test_the_best_is_picked_by_what_is_measured(weight, asked, wanted):
    assert settled(loss={"adversarial_weight": weight}, loop={"best": asked}).best() == wanted


def test_a_metric_of_an_adversarial_run_is_not_one_of_another():
    with pytest.raises(ValueError, match=r'loop\.best="sharpness_gap" .*known: psnr$'):
        settled(loop={"best": "sharpness_gap"})


def test_the_ends_of_a_range_belong_to_it():
    ends = {"held_frames": 1, "flip": 1, "reverse": 1, "autocast": "bf16", "validation_clips": 1}
    assert vars(AutoencoderTrainConfig(**ends)).items() >= ends.items()
    assert AutoencoderTrainConfig(held_frames=0, flip=0, reverse=0, latent_noise=0, shift=0)


def test_without_a_yaml_the_autoencoder_is_the_published_one():
    assert replace(settled().model, options={}) == AutoencoderConfig()


def test_the_model_is_built_for_the_clips_of_the_data():
    cfg = settled(data={"frames": 4, "resolution": [16, 24], "channels": 1}, model={"patch": 4})
    assert cfg.model.clip_shape == (1, 4, 16, 24)
    assert (cfg.data.frames, cfg.data.size, cfg.data.channels) == (4, (16, 24), 1)


@pytest.mark.parametrize("ours, theirs, wrong", [("frames", "frames", 8), ("resolution", "resolution", 64),
                                                 ("in_channels", "channels", 1)])
def test_a_model_of_other_clips_than_the_data_is_refused(ours, theirs, wrong):
    right = getattr(DataConfig(), theirs)
    with pytest.raises(ValueError, match=rf"model\.{ours}={wrong} contradicts data\.{theirs}={right}; set data\.{theirs}"):
        settled(model={ours: wrong})


def test_saying_the_same_twice_is_no_contradiction():
    sizes = {"frames": 4, "resolution": [16, 32]}
    assert settled(model=sizes | {"in_channels": 1}, data=sizes | {"channels": 1}).model.clip_shape == (1, 4, 16, 32)
