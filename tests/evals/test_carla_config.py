"""Settings of `--exp carla`: what they begin with, and what is refused."""

import pytest

from configs.schema import load_config
from evals.carla_config import CarlaConfig, CarlaModelConfig, CarlaTrainConfig, CompareConfig, FramesConfig, MapConfig


def test_training_reads_the_train_side_and_mapping_the_test_side():
    assert (load_config(CarlaConfig, None).data.split, load_config(MapConfig, None).data.split) == ("train", "test")


def test_a_run_folders_settings_come_back(tmp_path):
    import yaml

    from configs.schema import plain
    cfg = load_config(CarlaConfig, None, {}, ["model.arch=small", "data.resolution=[16,24]", "optim.lr=1e-2"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(cfg)))
    assert load_config(CarlaConfig, tmp_path / "config.yaml") == cfg and cfg.data.size == (16, 24)


@pytest.mark.parametrize("make, error", [
    (lambda: CarlaModelConfig(arch="resnet"), "model.arch \"resnet\" is unknown"),
    (lambda: FramesConfig(resize="squeeze"), "data.resize must be crop or pad or stretch, got squeeze"),
    (lambda: FramesConfig(resolution=0), "data.resolution must be at least 1"),
    (lambda: FramesConfig(name="CARLO"), "CARLA"),
    (lambda: CarlaTrainConfig(validation_frames=0), "train.validation_frames must be at least 1, got 0"),
    (lambda: load_config(CarlaConfig, None, {}, ["loop.best=loss"]), "known: error, error_in_cell, accuracy"),
    (lambda: load_config(CompareConfig, None, {}, ["speed.gap=0"]), "speed.gap must be above 0"),
    (lambda: load_config(CompareConfig, None, {}, ["speed.limt=3"]), 'did you mean "speed.limit"'),
])
def test_what_makes_no_sense_is_refused(make, error):
    with pytest.raises(ValueError, match=error):
        make()
