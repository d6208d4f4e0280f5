"""What report finds in folders, and how it names that."""

import json

import pytest
from media import put, put_samples
from runs import put_result, put_run

from evals.report_sources import find
from tools.tree import describe


def names(items):
    return [item.name for item in items]


def test_a_run_has_its_settings_curves_and_latest_snapshots(tmp_path):
    put_run(tmp_path / "run", unet={"width": 8, "mult": [1, 2]}, data={"options": {}})
    (tmp_path / "run/samples").mkdir()
    for name in ("step-00000900.png", "step-00001000.mp4", "step-00001000.png", "curves.png"):
        (tmp_path / "run/samples" / name).touch()
    ((run,), samples, results) = find([tmp_path / "run"])
    assert run.settings == {"unet.width": 8, "unet.mult": [1, 2], "data.options": {}} and run.stage == "Latent diffusion"
    assert run.curves == {"loss": {"train": ([1], [0.5])}, "psnr": {"validate": ([2], [20.0])}}
    assert [path.name for path in run.snapshots] == ["step-00001000.mp4", "step-00001000.png"]
    assert not samples and not results


@pytest.mark.parametrize("section, stage", [("unet", "Latent diffusion"), ("model", "Autoencoder"), ("other", "Training")])
def test_the_stage_follows_from_the_settings(tmp_path, section, stage):
    put_run(tmp_path / "run", **{section: {"a": 1}})
    assert find([tmp_path / "run"]).trainings[0].stage == stage


def test_all_that_lies_in_a_folder_is_found(tmp_path):
    put_run(tmp_path / "results/ddpm_a")
    put_run(tmp_path / "results/ddpm_b")
    put_samples(tmp_path / "results/ddpm_a/samples/ema-2/predict")
    put_result(tmp_path / "results/ddpm_a/samples/ema-2/predict/metrics.json", psnr=(20, 1))
    put_result(tmp_path / "results/scores/first.json", psnr=(20, 1))
    (tmp_path / "results/demo").mkdir()
    (tmp_path / "results/demo/metrics.json").write_text(json.dumps({"reconstruction_psnr": 20}))
    (tmp_path / "results/demo/torn.json").write_text("{")
    found = find([tmp_path / "results"])
    assert names(found.trainings) == ["ddpm_a", "ddpm_b"] and names(found.samples) == ["predict"]
    assert names(found.results) == ["predict/metrics", "first"]
    assert found.samples[0].settings["seed"] == 7


def test_what_is_given_twice_is_found_once(tmp_path):
    put_run(tmp_path / "results/run")
    paths = [tmp_path / "results", tmp_path / "results/run", tmp_path / "results/../results/run"]
    assert names(find(paths).trainings) == ["run"]


def test_names_are_as_long_as_they_must_be(tmp_path):
    for name in ("x/run", "y/run", "y/other"):
        put_run(tmp_path / name)
    assert names(find([tmp_path]).trainings) == ["x/run", "other", "y/run"]


def test_what_reconstruct_wrote_and_videos_alone_are_samples(tmp_path):
    for name in ("recon", "videos", "latent"):
        put(tmp_path / "out" / name / "a.npy")
    put_result(tmp_path / "out/metrics.json", psnr=(30, None))
    put(tmp_path / "videos/a.npy")
    found = find([tmp_path / "out", tmp_path / "videos"])
    assert names(found.samples) == ["out", "videos"] and names(found.results) == ["out/metrics"]


@pytest.mark.parametrize("make, words", [
    (lambda path: None, ["no such file or folder", "run folders"]),
    (lambda path: path.mkdir(), ["holds no run", "an empty folder"]),
    (lambda path: path.write_text("{"), ["damaged JSON"]),
    (lambda path: path.write_text('{"metrics": {"psnr": 3}}'), ["no JSON of evaluate"]),
], ids=["absent", "empty", "damaged", "another JSON"])
def test_what_cannot_be_reported_is_told_in_a_line(tmp_path, make, words):
    make(tmp_path / "it")
    with pytest.raises(ValueError) as error:
        find([tmp_path / "it"])
    text = str(error.value)
    assert "\n" not in text and str(tmp_path / "it") in text and all(word in text for word in words), text
    assert describe(tmp_path)


def test_broken_settings_are_told(tmp_path):
    put_run(tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("a: [1, {")
    with pytest.raises(ValueError, match=r"config.yaml cannot be read"):
        find([tmp_path / "run"])


def test_a_run_without_metrics_has_no_curves(tmp_path):
    put_run(tmp_path / "run", records=())
    assert find([tmp_path / "run"]).trainings[0].curves == {}
