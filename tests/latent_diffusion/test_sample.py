"""The commands sample and evaluate: what they write is what the Python interface makes of the same windows."""

import json

import numpy as np
import pytest
import torch
from fakes import video
from sampling import make_model, raw, refused, sample

from evals.protocol import METRICS
from latent_diffusion import baselines
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample import run_folder
from main import main

T = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that sees the clip before."""
    return make_model(tmp_path_factory.mktemp("run"))


def test_predictions_are_those_of_the_python_interface(model, videos, tmp_path):
    words = (*raw(model), "--data", "VIDEOS", "--data_path", videos[0], "data.split=all",
             "--task", "predict", "--starts", "0,3", "--samples_per_video", 2, "--seed", 3)
    record, made = sample(tmp_path / "a", *words)
    windows = [("v0", 0), ("v0", 3), ("v1", 0)]  # v1 has no 8 frames from 3 on, v2 none at all
    assert [(v["name"], v["start"]) for v in record["videos"]] == windows
    assert list(made) == [f"{video:05d}_{number:02d}" for video in range(3) for number in range(2)]
    pipeline, known = VideoDiffusion.load(model, weights="raw"), torch.arange(2 * T) < T
    for index, (name, start) in enumerate(windows):
        truth = videos[1][name][start:start + 2 * T]
        assert np.array_equal(np.load(tmp_path / "a" / "real" / f"{index:05d}.npy"), truth)
        for number in range(2):
            wanted = pipeline.complete(truth, known, steps=2, seed=3, ids=[(index, number)])[0]
            got = made[f"{index:05d}_{number:02d}"]
            assert torch.equal(got[:T], truth[:T])
            assert (got.int() - wanted.int()).abs().max() <= 1
    assert not torch.equal(made["00000_00"], made["00000_01"])
    again = sample(tmp_path / "b", *words, "--batch_size", 1)[1]
    assert all((again[name].int() - made[name].int()).abs().max() <= 1 for name in made)


def test_the_record_says_how(model, videos, tmp_path):
    record, made = sample(tmp_path, "--model", model, "--input", videos[0] / "v0.npy", "--frames", 11, "--sampler", "heun")
    assert (record["task"], record["frames"], record["known_frames"]) == ("predict", 11, [0, 1, 2, 3])
    assert record["network_evaluations_per_video"] == 2 * 3 and record["sampler"] == {"name": "heun"}
    assert (record["weights"], record["step"]) == ("ema", 5)
    assert record["weights_hash"] == VideoDiffusion.load(model).model.weights_hash
    assert made["00000_00"].shape == (11, 16, 16, 3)
    assert {"grid.gif", "grid.png", "sample.json"} <= {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "videos" / "00000_00.mp4").is_file()


@pytest.mark.parametrize("words, wanted", [([], {"name": "deis"}), (["--eta", "0.5"], {"name": "ddim", "eta": 0.5})])
def test_sample_json_tells_the_sampler_that_nobody_named(model, videos, tmp_path, words, wanted):
    record, _ = sample(tmp_path, "--model", model, "--input", videos[0] / "v0.npy", "--frames", 8, *words)
    assert (record["sampler"], record["steps"]) == (wanted, "2")


def test_generation_needs_no_data(model, tmp_path):
    record, made = sample(tmp_path, "--model", model, "--num_videos", 3, "--frames", 6, "--npz", "--seed", 1)
    assert record["task"] == "generate" and record["known_frames"] == [] and not list((tmp_path / "real").glob("*"))
    wanted = VideoDiffusion.load(model).generate(3, frames=6, steps=2, seed=1)
    stacked = np.load(tmp_path / "samples.npz")["arr_0"]
    assert stacked.shape == (3, 6, 16, 16, 3)
    for i in range(3):
        assert (made[f"{i:05d}_00"].int() - wanted[i].int()).abs().max() <= 1
        assert np.array_equal(stacked[i], made[f"{i:05d}_00"])


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_baselines_write_the_same_files(videos, tmp_path, name):
    _, made = sample(tmp_path, "--baseline", name, "--data", "VIDEOS", "--data_path", videos[0], "data.split=all",
                     "--frames", 8, "--known", "0-2,-1", "--task", "infill", "--starts", "1")
    known = torch.tensor([True] * 3 + [False] * 4 + [True])
    for index, key in enumerate(("v0", "v1")):
        wanted = baselines.complete(name, videos[1][key][None, 1:9], known)[0]
        assert torch.equal(made[f"{index:05d}_00"], wanted)
        assert np.array_equal(np.load(tmp_path / "real" / f"{index:05d}.npy"), videos[1][key][1:9])


def test_evaluation_of_a_model_is_that_of_its_samples(model, videos, tmp_path):
    words = ["--model", model, "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "--task", "predict",
             "--starts", "0", "--steps", "2", "--metrics", "psnr", "--out", tmp_path / "result.json"]
    assert main(["--exp", "evaluate", *map(str, words)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    psnr = METRICS.get("psnr")()
    for index in range(2):
        real = np.load(tmp_path / "result" / "real" / f"{index:05d}.npy")
        fake = np.load(tmp_path / "result" / "samples" / f"{index:05d}_00.npy")
        psnr.update(torch.from_numpy(real[None, T:]), torch.from_numpy(fake[None, T:]))  # given frames do not count
    assert result["metrics"]["psnr"]["mean"] == pytest.approx(psnr.compute()["mean"])
    assert (result["n_real"], result["n_fake"]) == (2, 2)


def test_guided_evaluations_count_twice(model, videos, tmp_path):
    words = ("--model", model, "--frames", 3 * T, "--steps", "2/3", "--num_videos", 1)
    generated = sample(tmp_path / "a", *words, "--guidance", 1)[0]
    assert generated["network_evaluations_per_video"] == 2 + 2 * (3 + 3)  # nothing is known of the first clip
    assert sample(tmp_path / "b", *words)[0]["network_evaluations_per_video"] == 2 + 3 + 3


@pytest.mark.parametrize("flag", ["--batch_size", "--samples_per_video", "--num_videos"])
def test_counts_are_at_least_one(model, capsys, flag):
    assert f"{flag} must be at least 1, got 0" in refused(capsys, "sample", "--model", model, flag, 0)


def test_a_baseline_asks_for_known_frames_and_for_one_size(tmp_path, capsys):
    for name, size in (("small", (16, 16)), ("wide", (20, 24))):
        np.save(tmp_path / f"{name}.npy", video(1, 8, size)[0].numpy())
    words = ("sample", "--baseline", "nearest", "--input", tmp_path, "--frames", 8, "--out", tmp_path / "out")
    assert "--known" in refused(capsys, *words)
    line = refused(capsys, *words, "--known", 0)
    assert "16x16" in line and "20x24" in line and "data.resolution=16" in line
    assert main(["--exp", *map(str, words), "--known", "0", "data.resolution=16"]) == 0


def test_a_step_checkpoint_belongs_to_its_run(tmp_path):
    (tmp_path / "RUN" / "checkpoints").mkdir(parents=True)
    for name in ("", "model_last.pth", "checkpoints/step-00000004.pt"):
        assert run_folder(tmp_path / "RUN" / name) == tmp_path / "RUN"


def test_a_guide_is_recorded_and_counted(seeing_model, tmp_path, tmp_path_factory):
    weak = make_model(tmp_path_factory.mktemp("weak"), "condition.sees=[]", "mask.name=none")
    stated = (*raw(seeing_model), "--frames", 3 * T, "--num_videos", 1, "--overlap", 0)
    record, made = sample(tmp_path / "a", *stated, "--guidance", 1, "--guide", weak)
    assert record["network_evaluations_per_video"] == 2 * 3 * 2 and record["guidance"] == 1.0
    pipeline, guide = VideoDiffusion.load(seeing_model, weights="raw"), VideoDiffusion.load(weak, weights="raw")
    assert record["guide"] == str(guide.model.file) and record["guide_hash"] == guide.model.weights_hash
    wanted = pipeline.generate(1, frames=3 * T, steps=2, seed=42, guidance=1.0, guide=guide, overlap=0)
    assert torch.equal(made["00000_00"], wanted[0])
    assert sample(tmp_path / "b", *stated)[0]["guide"] is None


def test_a_content_model_is_recorded(seeing_model, tmp_path, tmp_path_factory):
    first = make_model(tmp_path_factory.mktemp("first"), "condition.sees=[]", "mask.name=none")
    record, made = sample(tmp_path / "a", *raw(seeing_model), "--frames", 3 * T, "--num_videos", 1, "--content", first)
    pipeline, content = VideoDiffusion.load(seeing_model, weights="raw"), VideoDiffusion.load(first, weights="raw")
    assert record["content"] == str(content.model.file) and record["content_hash"] == content.model.weights_hash
    wanted = pipeline.generate(1, frames=3 * T, steps=2, seed=42, content=content)
    assert torch.equal(made["00000_00"], wanted[0])
    assert torch.equal(wanted[:, :T], content.generate(1, frames=T, steps=2, seed=42))


def test_a_schedule_counts_in_clips(seeing_model, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"observed": [], "target": [2]}, {"observed": [2], "target": [0, 1]}]))
    words = (*raw(seeing_model), "--frames", 3 * T, "--num_videos", 1, "--overlap", 0, "--schedule", path)
    record, made = sample(tmp_path / "out", *words)
    assert record["schedule"] == str(path) and record["window"] is None
    wanted = VideoDiffusion.load(seeing_model, weights="raw").generate(1, frames=3 * T, steps=2, seed=42, overlap=0,
                                                                      schedule=path)
    assert torch.equal(made["00000_00"], wanted[0])
    line = refused(capsys, "sample", *words, "--window", 2)
    assert f"--schedule {path}: window 1 holds 1 observed and 2 made clips, more than --window 2" in line
