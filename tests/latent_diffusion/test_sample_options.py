"""What the command sample reads beside its flags: where a dotted setting arrives, and what is refused."""


import numpy as np
import pytest
import torch
from sampling import data, raw, refused, sample

from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample_options import OPTIONS, data_config, schedule_name, split_overrides

T = 4


@pytest.mark.parametrize("words, options", [
    (["guidance.history=0.5", "guidance.fraction=0.3", "--guidance", 1],
     {"history_guidance": 0.5, "history_fraction": 0.3, "guidance": 1.0}),
    (["guidance.low=0.5", "--guidance", 1], {"interval": (0.5, None), "guidance": 1.0}),
    (["guidance.high=2", "guidance.low=0", "--guidance", 1], {"interval": (0.0, 2.0), "guidance": 1.0}),
    (["noise.temperature=0.8", "noise.shared=0.25"], {"temperature": 0.8, "shared_noise": 0.25}),
    (["rollout.one_frame=true"], {"one_frame": True}), (["rollout.carry=false"], {"carry": False}),
    (["rollout.init_prev_t=0.5"], {"init_prev_t": 0.5}),
    (["--scheme", "shift", "--window", 3], {"scheme": "shift", "window": 3}),
])
def test_settings_are_options_of_the_python_interface(seeing_model, long_videos, tmp_path, words, options):
    words = (*data(long_videos, "--batch_size", 1, "--frames", 11, "--seed", 3), *words)
    record, made = sample(tmp_path, *raw(seeing_model), *words)
    pipeline, options = VideoDiffusion.load(seeing_model, weights="raw"), {"steps": "2", "seed": 3} | options
    for index in range(2):
        frames = torch.from_numpy(np.load(tmp_path / "real" / f"{index:05d}.npy"))
        wanted = pipeline.complete(frames, torch.arange(11) < T, ids=[(index, 0)], **options)
        assert torch.equal(made[f"{index:05d}_00"], wanted[0])
    for name, value in options.items():
        assert record[name] == (list(value) if isinstance(value, tuple) else value)
    assert record["adaptive_distance"] is None


def test_each_lesser_setting_has_an_effect(seeing_model, long_videos, tmp_path):
    words = (*raw(seeing_model), *data(long_videos, "--num_videos", 1, "--frames", 11))
    plain = sample(tmp_path / "plain", *words)[1]["00000_00"]
    for i, more in enumerate((["guidance.history=0.5"], ["noise.temperature=0.8"], ["noise.shared=0.5"], ["--guidance", 1],
                              ["rollout.one_frame=true"], ["rollout.init_prev_t=0.5"])):
        assert not torch.equal(sample(tmp_path / str(i), *words, *more)[1]["00000_00"], plain), more


@pytest.mark.parametrize("words, parts", [
    (["optim.lr=3"], ["data.* settings", 'got "optim.lr=3"']), (["guidance.hihg=3"], ["guidance.hihg=3", "guidance.high"]),
    (["guidance.low="], ["guidance.low=", "lacks a value"]),
    (["guidance.low=x", "--guidance", "1"], ["must be a number, got x"]),
    (["noise.shared=true"], ["must be a number, got true"]), (["rollout.carry=1"], ["must be true or false, got 1"]),
    (["guidance.high=[1"], ["no YAML"]), (["guidance.low=1"], ["no effect without guidance"]),
    (["data.stride=2"], ["data.stride=2", "--data NAME"]), (["--resolution", "16"], ["data.resolution=16", "--data NAME"]),
    (["--resolution", "0"], ["--resolution must be at least 1, got 0"]), (["--window", "0"], ["window=0"]),
    (["--stride", "0"], ["stride=0"]), (["--batch_size", "0"], ["--batch_size must be at least 1, got 0"]),
    (["--steps", "0"], ["steps"]), (["--steps", ""], ["steps=''"]), (["--frames", "0"], ["--frames 0"]),
    (["--scheme", "adaptive-autoreg"], ["neighbours", "--scheme autoreg"]),
    (["--guide", "nowhere"], ["no model at", "nowhere"]),
    (["rollout.one_frame=true", "--stride", "1"], ["rollout.one_frame", "--stride 1"]),
])
def test_what_would_be_ignored_is_refused(seeing_model, tmp_path, capsys, words, parts):
    line = refused(capsys, "sample", *raw(seeing_model), "--out", tmp_path / "out", *words)
    assert all(part in line for part in parts), line
    assert not (tmp_path / "out").exists()


def test_a_bound_may_be_infinite_and_zero_is_a_value():
    assert split_overrides(["guidance.high=.inf"])[0] == {"interval": (0.0, None)}
    assert split_overrides(["guidance.low=0", "data.stride=2"]) == ({"interval": (0.0, None)}, ["data.stride=2"])
    assert split_overrides(["noise.temperature=0"])[0] == {"temperature": 0.0}
    assert {name for name, _ in OPTIONS.values()} <= set(VideoDiffusion.settings().__dataclass_fields__)


@pytest.mark.parametrize("text, value", [("guidance.low=0.5", (0.5, None)), ("guidance.high=2", (0.0, 2.0)),
                                         ("guidance.high=.inf", (0.0, None))])
def test_one_bound_of_the_interval_leaves_the_other_open(text, value):
    assert split_overrides([text]) == ({"interval": value}, [])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_setting_is_read_as_its_kind(name):
    option, kind = OPTIONS[name]
    value = split_overrides([f"{name}={'false' if kind is bool else 1}"])[0][option]
    bounds = {"guidance.low": (1.0, None), "guidance.high": (0.0, 1.0)}
    assert value == bounds.get(name, kind is not bool)
    assert type(value) is (tuple if name in bounds else kind)


def test_what_is_no_key_of_the_data_goes_to_the_source():
    cfg, sized = data_config("SHAPES", None, None, ["data.stride=3", "data.size=32", "data.options.count=5"])
    assert (cfg.name, cfg.stride, cfg.options, sized) == ("SHAPES", 3, {"size": 32, "count": 5}, False)


def test_a_resolution_is_told_apart_from_the_default():
    cfg, sized = data_config("VIDEOS", "somewhere", None, ["data.resolution=[16, 24]"])
    assert (tuple(cfg.resolution), cfg.path, cfg.split, sized) == ((16, 24), "somewhere", "test", True)


def test_an_input_is_a_folder_of_which_all_is_taken():
    cfg, _ = data_config(None, None, "film.mp4", [])
    assert (cfg.name, cfg.path, cfg.split) == ("VIDEOS", "film.mp4", "all")
    assert data_config(None, None, "film.mp4", ["data.split=train"])[0].split == "train"  # what is said wins


def test_a_schedule_names_its_results():
    assert schedule_name("some/where/mine.json") == "schedule-mine"
