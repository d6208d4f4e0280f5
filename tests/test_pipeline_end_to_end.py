"""The stages at tiny size through the command line: every file that they promise, and what must hold of it."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.pvdm import position_tables, released_key
from tests.tiny import DDPM, FAST, FIRST, SHAPES, model_states, run
from tools import checkpoint
from tools.log import read_metrics
from tools.rng import fork
from tools.video import read_video

TEST = ("--data", "SHAPES", "data.size=16", "data.length=16", "data.count=4")
RUN_FILES = ("config.yaml", "log.txt", "metrics.jsonl", "model_last.pth", "ema_model_last.pth", "model_best.pth",
             "checkpoints/step-00000008.pt", "samples/step-00000004.png", "samples/step-00000008.mp4")


def train(stage, results, *words):
    """Train further words of a stage for three updates, and return its run folder."""
    before = set(results.glob("*"))
    run(*stage, *SHAPES, *FAST, "--results", results, "--steps", "3", *words)
    (folder,) = set(results.glob("*")) - before
    return folder


def sample(out, *words):
    """Sample into `out` and return the videos by name."""
    run("--exp", "sample", "--out", out, "--steps", "3", *words)
    return videos(out)


def videos(folder, side="samples"):
    return {path.stem: np.load(path) for path in sorted((folder / side).glob("*.npy"))}


def same(ones, others):
    return ones.keys() == others.keys() and all(np.array_equal(ones[name], others[name]) for name in ones)


@pytest.fixture(scope="module")
def predicted(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    sample(out, "--model", tiny.ddpm, "--task", "predict", *TEST, "--num_videos", "2", "--samples_per_video", "2", "--npz")
    return out


# --- training ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", ["first", "gan", "ddpm"])
def test_a_run_folder_holds_what_it_promises(tiny, stage):
    folder = getattr(tiny, stage)
    assert [name for name in RUN_FILES if not (folder / name).is_file()] == []
    assert list(folder.glob("events.out.tfevents*"))
    assert (folder / "samples" / "curves.png").is_file() == (stage == "first")  # the only one that was told to plot
    lines = read_metrics(folder / "metrics.jsonl")
    assert all(set(line) == {"step", "name", "value"} for line in lines)
    assert {line["step"] for line in lines if line["name"] == "train/loss"} <= {2, 4, 6, 8}
    assert {line["step"] for line in lines if line["name"].startswith("validate/")} == {4, 8}
    assert yaml.safe_load((folder / "config.yaml").read_text())["loop"]["steps"] == 8
    for name in ("model_last.pth", "ema_model_last.pth", "model_best.pth"):
        file = torch.load(folder / name, weights_only=True)
        assert file["kind"] == ("diffusion" if stage == "ddpm" else "autoencoder") and file["format"] == checkpoint.FORMAT


def test_the_adversarial_run_starts_from_the_first_stage_and_warms_its_critics_up(tiny):
    lines = {(line["step"], line["name"]): line["value"] for line in read_metrics(tiny.gan / "metrics.jsonl")}
    assert (2, "train/critic") in lines and (2, "train/loss") not in lines  # the autoencoder is frozen
    assert lines[8, "train/adversarial_weight"] > 0
    first, last = (checkpoint.load(run / "model_last.pth")["state"] for run in (tiny.first, tiny.gan))
    moved = max(float((last[key] - value).abs().max()) for key, value in first.items())
    assert 0 < moved < 5e-3  # six updates of about 2e-4


def test_a_finished_run_says_so_and_stays(tiny, tmp_path, capsys):
    shutil.copytree(tiny.first, tmp_path / tiny.first.name)
    before = model_states(tmp_path / tiny.first.name)
    run(*FIRST, *SHAPES, *FAST, "--results", tmp_path, "--steps", "8", "loop.log_every=5")
    assert "is finished: 8 of 8 steps" in capsys.readouterr().out
    torch.testing.assert_close(model_states(tmp_path / tiny.first.name), before, rtol=0, atol=0)


def test_resume_from_a_file_ends_where_its_own_run_does(tiny, tmp_path, capsys):
    words = (*FIRST, *SHAPES, *FAST, "--results", tmp_path, "--steps", "8", "--id", "other", "--resume",
             tiny.first / "checkpoints" / "step-00000004.pt")
    run(*words)
    assert "continuing after step 4" in capsys.readouterr().out
    torch.testing.assert_close(model_states(tmp_path / "first_stage_other_SHAPES_42"), model_states(tiny.first), rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["first", "ddpm"])
def test_init_from_starts_with_a_models_weights(tiny, tmp_path, stage):
    command = FIRST if stage == "first" else (*DDPM, "--first_model", tiny.gan)
    folder = train(command, tmp_path, "--init_from", getattr(tiny, stage), "optim.lr=1e-12", "loop.validate_every=0")
    begun = checkpoint.load(folder / "model_last.pth")["state"]
    given = checkpoint.load(getattr(tiny, stage) / "ema_model_last.pth")["state"]
    torch.testing.assert_close(begun, given, rtol=0, atol=1e-6)


# --- sampling ------------------------------------------------------------------------------------------------

def test_predictions_are_where_they_are_promised(predicted):
    names = [f"{video:05d}_{number:02d}" for video in range(2) for number in range(2)]
    made, real = videos(predicted), videos(predicted, "real")
    assert list(made) == names and list(real) == ["00000", "00001"]
    assert all(video.shape == (8, 16, 16, 3) and video.dtype == np.uint8 for video in [*made.values(), *real.values()])
    assert all(read_video(predicted / "videos" / f"{name}.mp4").shape == (8, 16, 16, 3) for name in names)
    assert read_video(predicted / "grid.gif").shape[0] == 8 and read_video(predicted / "grid.png").shape[0] == 1
    assert np.array_equal(np.load(predicted / "samples.npz")["arr_0"], np.stack(list(made.values())))


def test_sample_json_tells_how_they_were_made(predicted, tiny):
    record = json.loads((predicted / "sample.json").read_text())
    wanted = {"task": "predict", "frames": 8, "known_frames": [0, 1, 2, 3], "seed": 42, "steps": "3", "scheme": "autoreg",
              "window": 2, "stride": 1, "sampler": {"name": "deis"}, "guidance": 0.0, "weights": "ema", "step": 8,
              "samples_per_video": 2, "network_evaluations_per_video": 6}
    assert {key: record[key] for key in wanted} == wanted
    state = checkpoint.load(tiny.ddpm / "ema_model_last.pth")["state"]
    assert record["weights_hash"] == checkpoint.state_hash(state) and record["seconds"] > 0
    assert [video["name"].startswith("shapes_test") for video in record["videos"]] == [True, True]


def test_known_frames_come_out_exactly_and_the_others_are_made(predicted):
    made, real = videos(predicted), videos(predicted, "real")
    for name, video in made.items():
        assert np.array_equal(video[:4], real[name[:5]][:4])
        assert not np.array_equal(video[4:], real[name[:5]][4:])
    assert not np.array_equal(made["00000_00"], made["00000_01"]), "two samples are one"


def test_a_video_is_a_function_of_the_seed_not_of_the_batch(tiny, tmp_path):
    words = ("--model", tiny.ddpm, "--task", "predict", *TEST, "--num_videos", "3")
    one = sample(tmp_path / "one", *words, "--batch_size", "1")
    assert same(one, sample(tmp_path / "again", *words, "--batch_size", "1"))
    for size in ("2", "3"):
        for name, video in sample(tmp_path / size, *words, "--batch_size", size).items():
            assert np.abs(video.astype(int) - one[name]).max() <= 1
    more = sample(tmp_path / "more", *words, "--samples_per_video", "2", "--batch_size", "1")
    assert all(np.array_equal(more[name], video) for name, video in one.items())
    drawn = sample(tmp_path / "seed", *words, "--seed", "43", "--starts", "0")
    fixed = sample(tmp_path / "starts", *words, "--starts", "0")
    assert not any(np.array_equal(drawn[name][4:], fixed[name][4:]) for name in drawn)


def test_generation_makes_videos_of_any_length(tiny, tmp_path):
    made = sample(tmp_path, "--model", tiny.ddpm, "--task", "generate", "--frames", "11", "--num_videos", "2", "--steps", "3/2")
    assert [video.shape for video in made.values()] == [(11, 16, 16, 3)] * 2
    assert not videos(tmp_path, "real")
    record = json.loads((tmp_path / "sample.json").read_text())
    evaluations = 3 + 2 + 2 + 2  # of four clips, as each begins with the last frame before
    assert (record["known_frames"], record["network_evaluations_per_video"]) == ([], evaluations)


def test_a_model_is_a_run_folder_a_model_file_or_a_step_checkpoint(tiny, tmp_path):
    words = ("--task", "generate", "--num_videos", "1")

    def made(model, *more):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return sample(tmp_path / "out", "--model", model, *words, *more)
    averaged, raw = made(tiny.ddpm), made(tiny.ddpm, "--weights", "raw")
    assert not same(averaged, raw)
    assert same(averaged, made(tiny.ddpm / "ema_model_last.pth"))
    assert same(averaged, made(tiny.ddpm / "checkpoints" / "step-00000008.pt"))
    assert same(raw, made(tiny.ddpm / "model_last.pth"))
    assert made(tiny.ddpm, "--weights", "best") and made(tiny.ddpm / "checkpoints" / "step-00000004.pt")


def test_a_run_folder_may_be_renamed(tiny, tmp_path, predicted):
    home = tmp_path / "moved" / "my model"
    shutil.copytree(tiny.ddpm, home)
    run("--exp", "sample", "--model", home, *TEST, "--num_videos", "2", "--samples_per_video", "2", "--steps", "3")
    assert same(videos(home / "samples" / "ema-8" / "predict_autoreg_2_1_8"), videos(predicted))


def test_prediction_from_files(tiny, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "wide.npy", frames)
    made = sample(tmp_path / "out", "--model", tiny.ddpm, "--input", tmp_path / "in", "--frames", "9", "--resize")
    assert [video.shape for video in made.values()] == [(9, 16, 16, 3)]
    assert not videos(tmp_path / "out", "real"), "the truth ends before the sample does"


# --- measuring -----------------------------------------------------------------------------------------------

def test_evaluation_leaves_the_given_frames_out(predicted, tmp_path):
    words = ("--exp", "evaluate", "--real", predicted / "real", "--fake", predicted / "samples", "--metrics",
             "psnr,psnr_pooled,ssim")
    run(*words, "--out", tmp_path / "m.json")
    run(*words, "--out", tmp_path / "all.json", "--known_frames", "include")
    result, whole = (json.loads((tmp_path / name).read_text()) for name in ("m.json", "all.json"))
    assert (result["n_real"], result["n_fake"]) == (2, 4)
    assert result["protocol"]["frames_compared"] == [4, 5, 6, 7]
    made, real = videos(predicted), videos(predicted, "real")
    error = np.mean([(video[4:].astype(float) - real[name[:5]][4:]) ** 2 for name, video in made.items()])
    assert result["metrics"]["psnr_pooled"]["mean"] == pytest.approx(10 * np.log10(255**2 / error))
    assert whole["metrics"]["psnr"]["mean"] > result["metrics"]["psnr"]["mean"]
    assert set(result["metrics"]["ssim"]) >= {"mean", "ci95", "n"}


def test_evaluation_of_a_model_and_of_a_baseline(tiny, tmp_path):
    run("--exp", "evaluate", "--model", tiny.ddpm, *TEST, "--num_videos", "2", "--steps", "2", "--out", tmp_path / "model.json")
    sample(tmp_path / "repeat", "--baseline", "repeat_last", *TEST, "--num_videos", "2", "--frames", "8", "--known", "0-3")
    run("--exp", "evaluate", "--real", tmp_path / "repeat" / "real", "--fake", tmp_path / "repeat" / "samples", "--out",
        tmp_path / "repeat.json")
    results = [json.loads((tmp_path / name).read_text()) for name in ("model.json", "repeat.json")]
    assert results[0]["protocol"]["frames_compared"] == results[1]["protocol"]["frames_compared"] == [4, 5, 6, 7]
    assert results[0]["n_fake"] == results[1]["n_fake"] == 2


def test_reconstruction(tiny, tmp_path):
    (tmp_path / "in").mkdir()
    for length in (4, 10):
        np.save(tmp_path / "in" / f"v{length}.npy", np.random.default_rng(0).integers(0, 256, (length, 16, 16, 3), np.uint8))
    run("--exp", "reconstruct", "--first_model", tiny.gan, "--input", tmp_path / "in", "--out", tmp_path / "out")
    made, latents = videos(tmp_path / "out", "recon"), videos(tmp_path / "out", "latent")
    assert {name: (video.shape, str(video.dtype)) for name, video in made.items()} == {
        "v4": ((4, 16, 16, 3), "uint8"), "v10": ((10, 16, 16, 3), "uint8")}
    clip = 4 * 4 + 4 * 4 + 4 * 4  # the three planes of 4 frames of 4x4 tokens
    assert {name: (value.shape, str(value.dtype)) for name, value in latents.items()} == {
        "v4": ((4, clip), "float32"), "v10": ((4, 3 * clip), "float32")}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    truth = videos(tmp_path, "in")
    error = np.concatenate([(made[name].astype(float) - truth[name]).ravel() ** 2 for name in made]).mean()
    assert metrics["psnr_pooled"]["mean"] == pytest.approx(10 * np.log10(255**2 / error))
    assert {"psnr", "ssim"} <= set(metrics)


@pytest.mark.parametrize("model, kind", [("first", "autoencoder"), ("gan/model_best.pth", "autoencoder"),
                                         ("ddpm", "diffusion"), ("ddpm/checkpoints/step-00000004.pt", "diffusion")])
def test_info_says_what_a_file_is(tiny, capsys, model, kind):
    stage, _, file = model.partition("/")
    run("--exp", "info", "--model", getattr(tiny, stage) / file)
    facts = yaml.safe_load(capsys.readouterr().out)
    state = checkpoint.load(tiny.first / "model_last.pth")["state"] if kind == "autoencoder" else \
        checkpoint.load(tiny.ddpm / "model_last.pth")["state"]
    assert facts["kind"] == kind and facts["parameters"] <= sum(value.numel() for value in state.values())
    assert facts["step"] == (4 if "0004" in model else facts["step"]) and facts["weights"] in ("ema", "best")


# --- other shapes --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, shape, latent", [
    (["data.frames=1"], (1, 16, 16, 3), 4 * 4 + 2 * 4),
    (["data.resolution=[16,24]", "data.options.size=[16,24]"], (4, 16, 24, 3), 4 * 6 + 4 * 6 + 4 * 4),
], ids=["one frame", "rectangular"])
def test_other_clips_train_and_sample_in_both_stages(tmp_path, words, shape, latent):
    first = train(FIRST, tmp_path, *words)
    for never_known in ([], ["mask.name=none"]):
        model = train((*DDPM, "--id", f"m{len(never_known)}", "--first_model", first), tmp_path, *words, *never_known)
        made = sample(tmp_path / "made", "--model", model, "--task", "generate", "--num_videos", "2")
        assert [video.shape for video in made.values()] == [shape] * 2
    run("--exp", "reconstruct", "--first_model", first, "--input", tmp_path / "made" / "samples", "--out", tmp_path / "out")
    assert np.load(tmp_path / "out" / "latent" / "00000_00.npy").shape == (4, latent)


def test_single_images_train_both_stages(tmp_path):
    """A folder of images is a video; a set of single-frame videos has no clip before."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        np.save(tmp_path / "images" / f"{i}.npy", np.random.default_rng(i).integers(0, 256, (1, 16, 16, 3), np.uint8))
    data = ("--data", "VIDEOS", "--data_path", tmp_path / "images", *FAST, "--frames", "1", "--steps", "2",
            "--results", tmp_path)
    run(*FIRST, *data)
    run(*DDPM, *data, "--first_model", tmp_path / "first_stage_main_VIDEOS_42")
    made = sample(tmp_path / "out", "--model", tmp_path / "ddpm_main_VIDEOS_42", "--task", "generate", "--num_videos", "1")
    assert made["00000_00"].shape == (1, 16, 16, 3)


def test_a_released_autoencoder_is_a_first_model(tmp_path, capsys):
    config = AutoencoderConfig(channels=16, frames=4, resolution=16, patch=4, latent_channels=4, depth=1, heads=2, head_dim=8,
                               options={"projection_depth": 1, "projection_heads": 4, "projection_mlp": 16, "released": True})
    with fork(0, "released"):
        net = build_autoencoder(config)
    state = {released_key(key): value for key, value in net.state_dict().items()}
    state = {key: value[..., None, None] if key.startswith(("pre_", "post_")) and key.endswith("weight") else value
             for key, value in state.items()} | position_tables(config)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "released.pth")
    run("--exp", "info", "--model", tmp_path / "released.pth")
    assert "PVDM" in yaml.safe_load(capsys.readouterr().out)["kind"]
    model = train((*DDPM, "--first_model", tmp_path / "released.pth"), tmp_path)
    made = sample(tmp_path / "out", "--model", model, *TEST, "--num_videos", "1")
    assert np.array_equal(made["00000_00"][:4], videos(tmp_path / "out", "real")["00000"][:4])
