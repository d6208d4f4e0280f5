"""The commands sample and evaluate: what they write is what the Python interface makes of the same windows."""

import json

import numpy as np
import pytest
import torch
from fakes import autoencoder, diffusion_config, diffusion_stage, first_config, video

from autoencoder.codec import Codec
from evals.protocol import METRICS
from latent_diffusion import baselines
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample import run_folder
from main import main

T = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    stage = diffusion_stage(diffusion_config("unet.mult=[1]", "unet.attention=[1]"), Codec(autoencoder(first_config())))
    torch.nn.init.normal_(stage.net.unet.conv_out.weight, std=0.1)
    stage.export(5, folder, "last")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos of 14, 9 and 5 frames."""
    folder = tmp_path_factory.mktemp("videos")
    frames = {f"v{i}": video(1, length, seed=i)[0] for i, length in enumerate((14, 9, 5))}
    for name, value in frames.items():
        np.save(folder / f"{name}.npy", value.numpy())
    return folder, frames


def sample(out, *words):
    """Run the command; return sample.json and the samples by name."""
    assert main(["--exp", "sample", "--steps", "2", "--out", str(out), *map(str, words)]) == 0
    made = {p.stem: torch.from_numpy(np.load(p)) for p in sorted((out / "samples").glob("*.npy"))}
    return json.loads((out / "sample.json").read_text()), made


def test_predictions_are_those_of_the_python_interface(model, videos, tmp_path):
    words = ("--model", model, "--weights", "raw", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all",
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


def test_drawn_windows_follow_from_the_seed(videos, tmp_path):
    words = ("--baseline", "nearest", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "--frames", 5,
             "--known", "0-1", "--num_videos", 5)
    drawn = [sample(tmp_path / str(i), *words, "--seed", seed)[0]["videos"] for i, seed in enumerate((0, 0, 1))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5 and {v["name"] for v in drawn[0]} == {"v0", "v1", "v2"}


def refused(capsys, *words):
    """Run a command that must fail; return its one line."""
    assert main(["--exp", *map(str, words)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_older_samples_are_gone_and_other_files_stay(videos, tmp_path):
    words = ("--baseline", "nearest", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "--known", 0)
    sample(tmp_path, *words, "--frames", 5, "--num_videos", 3, "--samples_per_video", 2)
    (tmp_path / "samples" / "notes.txt").touch()
    _, made = sample(tmp_path, *words, "--frames", 4, "--num_videos", 1)
    assert (tmp_path / "samples" / "notes.txt").is_file()
    assert list(made) == ["00000_00"] and len(made["00000_00"]) == 4
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["00000.npy"]
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["00000_00.mp4"]


def test_real_videos_are_never_cleared_away(videos, tmp_path, capsys):
    (tmp_path / "real").mkdir()
    np.save(tmp_path / "real" / "00000.npy", videos[1]["v0"])
    line = refused(capsys, "sample", "--baseline", "nearest", "--input", tmp_path / "real", "--frames", 5, "--known", 0,
                   "--out", tmp_path)
    assert "00000.npy" in line and "--out" in line and (tmp_path / "real" / "00000.npy").is_file()


def test_a_stride_between_frames(videos, tmp_path):
    words = ("--baseline", "nearest", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "data.stride=3",
             "--frames", 4, "--known", "0-1", "--starts", "0,2")
    record, _ = sample(tmp_path, *words)
    assert [(v["name"], v["start"]) for v in record["videos"]] == [("v0", 0), ("v0", 2)]  # 10 frames, which only v0 has
    assert np.array_equal(np.load(tmp_path / "real" / "00001.npy"), videos[1]["v0"][2:12:3])
    wanted = {"data": "VIDEOS", "data_path": str(videos[0]), "input": None, "resize": False, "starts": "0,2",
              "num_videos": None, "batch_size": 4, "overrides": ["data.split=all", "data.stride=3"], "data_stride": 3}
    assert {key: record[key] for key in wanted} == wanted


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
