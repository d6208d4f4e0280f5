"""The command evaluate: which videos it compares, where it writes, and what it refuses before it samples."""

import json

import numpy as np
import pytest
import torch
import yaml
from fakes import video
from sampling import make_model, refused

import evals.run
from evals.protocol import METRICS
from latent_diffusion.pipeline import VideoDiffusion
from main import main

T = 4
STEPS = ("--steps", "1", "--starts", "0")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of two clips."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(2):
        np.save(folder / f"v{i}.npy", video(1, 2 * T, seed=i)[0].numpy())
    return folder


@pytest.fixture
def pairs(tmp_path):
    """Folders of real videos and of others."""
    for side, seed in (("real", 0), ("fake", 50)):
        (tmp_path / side).mkdir()
        for i in range(3):
            np.save(tmp_path / side / f"{i:05d}.npy", video(1, T, seed=seed + i)[0].numpy())
    return tmp_path / "real", tmp_path / "fake"


def evaluate(*words):
    return main(["--exp", "evaluate", *map(str, words)])


def of_model(model, videos, *words):
    return evaluate("--model", model, "--data", "VIDEOS", "--data_path", videos, "data.split=all", *STEPS, *words)


@pytest.mark.parametrize("words, options", [
    ([], {}),
    (["--metrics", "ssim, psnr,", "--resolution", 12, "--batch_size", 2], {"metrics": ["ssim", "psnr"], "resolution": 12}),
])
def test_two_folders_are_compared_as_evals_does(pairs, tmp_path, words, options):
    assert evaluate("--real", pairs[0], "--fake", pairs[1], "--out", tmp_path / "m.json", *words) == 0
    wanted = evals.run.evaluate(*pairs, **({"metrics": "psnr,psnr_pooled,ssim"} | options))
    assert json.loads((tmp_path / "m.json").read_text()) == json.loads(json.dumps(wanted))


def test_without_out_the_report_is_printed(pairs, capsys):
    assert evaluate("--real", pairs[0], "--fake", pairs[1], "--metrics", "psnr") == 0
    assert json.loads(capsys.readouterr().out)["n_real"] == 3


def test_a_model_is_measured_on_what_it_makes(model, videos, tmp_path):
    assert of_model(model, videos, "--seed", 3, "--samples_per_video", 2, "--metrics", "psnr_pooled,",
                    "--out", tmp_path / "m.json") == 0
    psnr, pipeline = METRICS.get("psnr_pooled")(), VideoDiffusion.load(model)
    for index in range(2):
        truth = torch.from_numpy(np.load(videos / f"v{index}.npy"))[None]
        for number in range(2):
            made = pipeline.complete(truth, torch.arange(2 * T) < T, steps=1, seed=3, ids=[(index, number)])
            psnr.update(truth[:, T:], made[:, T:])
    result = json.loads((tmp_path / "m.json").read_text())
    assert result["metrics"]["psnr_pooled"]["mean"] == pytest.approx(psnr.compute()["mean"], abs=0.1)  # within a grey level
    assert (result["n_real"], result["n_fake"]) == (2, 4)


@pytest.mark.parametrize("out, folder", [("m.json", "m"), ("m", "m_videos"), ("v1.5", "v1.5_videos")])
def test_the_videos_lie_beside_the_report(model, videos, tmp_path, out, folder):
    assert of_model(model, videos, "--out", tmp_path / out, "--metrics", "psnr") == 0
    assert {path.name for path in tmp_path.iterdir()} == {out, folder}
    assert "metrics" in json.loads((tmp_path / out).read_text())
    assert {path.name for path in (tmp_path / folder / "samples").iterdir()} == {"00000_00.npy", "00001_00.npy"}


def test_without_out_they_lie_in_the_run(model, videos):
    assert of_model(model, videos, "--metrics", "psnr") == 0
    assert "metrics" in json.loads((model / "evaluation" / "evaluation.json").read_text())
    assert len(list((model / "evaluation" / "samples").iterdir())) == 2


@pytest.mark.parametrize("words, parts", [
    (["--metrics", "psnr,sim"], ['"sim"', 'did you mean "ssim"']),
    (["--protocol", "custm"], ["--protocol custm", 'did you mean "custom"']),
    (["--known_frames", "exlude"], ["--known_frames exlude", 'did you mean "exclude"']),
    (["--out", "{tmp}"], ["{tmp} is a folder", "--out {tmp}/metrics.json"]),
    (["--real", "{tmp}"], ["--real and --fake", "not both"]),
    (["--task", "forecast"], ["forecast", "predict"]),
])
def test_what_would_fail_at_the_end_fails_before_the_first_sample(model, videos, tmp_path, capsys, words, parts):
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    assert of_model(model, videos, "--out", tmp_path / "m.json", *words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(part.replace("{tmp}", str(tmp_path)) in line for part in parts), line
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_says_how_a_model_samples_and_the_line_renames(model, videos, tmp_path):
    words = ("--protocol", "mcvd", "--metrics", "psnr_mcvd", "--num_videos", 1, "--samples_per_video", 2)
    assert of_model(model, videos, *words, "--out", tmp_path / "m.json") == 0
    result = json.loads((tmp_path / "m.json").read_text())
    assert list(result["metrics"]) == ["psnr_mcvd[samples_per_video=2,num_videos=1,steps=1]"]
    sample = result["protocol"]["sample"]
    assert (sample["sampler"]["name"], sample["steps"]) == ("ddpm", "1")  # the former of the protocol
    entry = next(iter(result["metrics"].values()))
    assert result["n_fake"] == 2 and entry["mean"] == entry["best_of_k"]["mean"]


def test_seeds_are_sampled_each_and_averaged(model, videos, tmp_path):
    words = ("--weights", "raw", "--seed", 5, "--metrics", "psnr", "--out", tmp_path / "m.json")
    assert of_model(model, videos, "protocol.seeds=2", *words) == 0
    entry = json.loads((tmp_path / "m.json").read_text())["metrics"]["psnr"]
    one = [evals.run.evaluate(*(tmp_path / "m" / f"seed-{s}" / side for side in ("real", "samples")), metrics="psnr")
           for s in (5, 6)]
    values = [result["metrics"]["psnr"]["mean"] for result in one]
    assert entry["seeds"]["values"] == values and values[0] != values[1] and entry["mean"] == pytest.approx(sum(values) / 2)


def test_weights_that_are_not_here_are_told_before_the_first_sample(model, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path / "none"))
    assert of_model(model, videos, "--metrics", "fvd", "--out", tmp_path / "m.json") == 2
    assert "--exp download --name i3d" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_folders_take_no_flag_of_the_sampling(pairs, capsys):
    assert "--steps is for --exp evaluate --model RUN" in refused(capsys, "evaluate", "--real", pairs[0], "--fake", pairs[1],
                                                                 "--steps", 4)


def test_a_dry_run_shows_the_protocol_as_the_line_changes_it(capsys):
    assert evaluate("--protocol", "pvdm", "--frames", 32, "protocol.ddof=0", "--dry-run") == 0
    shown = yaml.safe_load(capsys.readouterr().out)["protocol"]
    assert (shown["frames"], shown["ddof"], shown["changes"]) == (32, 0, ["frames", "ddof"])


def test_a_model_needs_real_videos(model, capsys):
    assert evaluate("--model", model) == 2
    assert "--data NAME" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--batch_size", "0"], ["--resolution", "0"]])
@pytest.mark.parametrize("what", [["--real", "x", "--fake", "x"], ["--model", "x", "--data", "SHAPES"]])
def test_evaluation_takes_no_zero_for_not_given(capsys, what, words):
    assert f"{words[0]} must be at least 1, got 0" in refused(capsys, "evaluate", *what, *words)
