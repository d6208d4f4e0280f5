"""Every error of a user is one line on stderr that says what, got and how to fix, with exit status 2."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from main import main
from tests.tiny import DDPM, FAST, FIRST, GAN, ROOT, SHAPES, environment
from tools.writers import write_mp4

TRAIN = (*FIRST, *FAST, "--results", "{tmp}/results", "--steps", "2")
VIDEOS = (*TRAIN, "--data", "VIDEOS", "--data_path")
LATENT = (*DDPM, *FAST, *SHAPES, "--results", "{tmp}/results", "--steps", "2")
SAMPLE = ("--exp", "sample", "--model", "{ddpm}", "--out", "{tmp}/out", "--steps", "2")
PREDICT = (*SAMPLE, "--data", "SHAPES", "data.size=16", "--num_videos", "1")
RECONSTRUCT = ("--exp", "reconstruct", "--first_model", "{first}", "--out", "{tmp}/out", "--input")

CASES = {  # what went wrong: (the command, parts of its line)
    "no experiment": (["--data", "SHAPES"], ["--exp", "required", "--help"]),
    "unknown experiment": (["--exp", "frist_stage"], ["frist_stage", "first_stage"]),
    "unknown flag": ([*TRAIN, "--batchsize", "4"], ["--batchsize", "--help"]),
    "a flag's value of the wrong type": ([*TRAIN, "--seed", "x"], ["--seed", "'x'", "int"]),
    "a word that is no setting": ([*TRAIN, "fast"], ['"fast"', "section.key=value"]),
    "a setting that is no YAML": ([*TRAIN, "optim.betas=[1,"], ["optim.betas=[1,", "section.key=value"]),
    "a key with a typo": ([*TRAIN, "optim.lrr=1"], ["optim.lrr", 'did you mean "optim.lr"']),
    "a section with a typo": ([*TRAIN, "lop.steps=1"], ["lop.steps", 'did you mean "loop.steps"']),
    "a key with a typo in a YAML": ([*TRAIN, "--pretrain_config", "{files}/typo.yaml"],
                                    ["typo.yaml", "loop.savevery", 'did you mean "loop.save_every"']),
    "a YAML that is none": ([*TRAIN, "--pretrain_config", "{files}/broken.yaml"], ["broken.yaml", "not readable YAML"]),
    "a YAML that is not there": ([*TRAIN, "--pretrain_config", "{files}/none.yaml"], ["none.yaml", "tiny.yaml"]),
    "a value of the wrong type": ([*TRAIN, "loop.save_every=often"], ["loop.save_every", "'often'", "Integer"]),
    "a value out of range": ([*TRAIN, "optim.lr=-1"], ["optim.lr", "positive", "-1"]),
    "resolution no multiple of patch": ([*TRAIN, *SHAPES, "data.resolution=18"], ["18x18", "patch 4", "16x16", "20x20"]),
    "eps from pure noise": ([*LATENT, "process.parametrisation=eps"], ["parametrisation=eps", "alpha = 0", "use v, x0"]),
    "unknown dataset": ([*TRAIN, "--data", "UCF"], ['"UCF"', 'did you mean "UCF101"', "SHAPES"]),
    "unknown option of a dataset": ([*TRAIN, *SHAPES, "data.options.lenght=9"], ["lenght", 'did you mean "length"']),
    "missing data folder": ([*VIDEOS, "{tmp}/nowhere"], ["nowhere", "no such folder", "--data_path", "wanted"]),
    "UCF-101 that is none": ([*TRAIN, "--data", "UCF101", "--data_path", "{files}/short"],
                             ["short", "no UCF-101 video", "ucfTrainTestlist"]),
    "UCF-101 without a video of that side": ([*TRAIN, "--data", "UCF101", "--data_path", "{files}/ucf"],
                                             ["none of its 1 videos", "train side of fold 1", "data.split=all"]),
    "a dataset empty on that side": ([*VIDEOS, "{files}/test_only"], ["test_only", "train side is empty", "data.split=all"]),
    "a folder without videos": ([*VIDEOS, "{files}/empty"], ["empty", "holds no video", "mp4"]),
    "only videos shorter than the clip": ([*VIDEOS, "{files}/short"], ["brief (2)", "4 frames", "fewer --frames"]),
    "a video shorter than the clip": ([*VIDEOS, "{files}/mixed"], ["video brief has 2 frames", "4 frames", "data.frames",
                                                                    "data.on_error=skip"]),
    "damaged video": ([*VIDEOS, "{files}/damaged"], ["torn.mp4", "damaged"]),
    "batch that cannot be split": ([*TRAIN, *SHAPES, "--batch_size", "8", "loop.micro_batch=3"],
                                   ["--batch_size 8", "micro_batch=3", "multiple of 3"]),
    "perceptual loss without its weights": ([*TRAIN, *SHAPES, "loss.perceptual_weight=1"],
                                            ["vgg16-397923af.pth", "{weights}", "fetch https://", "loss.perceptual_weight=0"]),
    "an adversarial run without its first stage": ([*GAN, *FAST, *SHAPES, "--results", "{tmp}/r", "--first_stage_folder",
                                                    "{tmp}/none"], ["--first_stage_folder", "none", "--init_from"]),
    "--resume of nothing": ([*TRAIN, *SHAPES, "--resume", "{tmp}/none.pt"], ["none.pt", "does not exist"]),
    "--resume of a model file": ([*TRAIN, *SHAPES, "--resume", "{first}/model_last.pth"], ["model_last.pth", "--init_from"]),
    "--init_from another size": ([*TRAIN, *SHAPES, "--init_from", "{first}", "model.channels=16"],
                                 ["{first}", "contradicts the model of --init_from", "configuration"]),
    "missing --first_model": ([*LATENT], ["--first_model"]),
    "no such --first_model": ([*LATENT, "--first_model", "{tmp}/none"], ["no model at", "none"]),
    "a diffusion for an autoencoder": ([*LATENT, "--first_model", "{ddpm}"], ["diffusion, not an autoencoder", "first stage"]),
    "a text file for a model": ([*LATENT, "--first_model", "{files}/text.pth"], ["text.pth", "damaged or no checkpoint"]),
    "a truncated model": ([*LATENT, "--first_model", "{files}/torn.pth"], ["torn.pth", "damaged", "copy it again"]),
    "a pickle with code": ([*LATENT, "--first_model", "{files}/code.pth"], ["code.pth", "system", "run code"]),
    "a pickle of another kind": ([*LATENT, "--first_model", "{files}/objects.pth"], ["objects.pth", "run code"]),
    "a contradicting --pretrain_config": ([*LATENT, "--first_model", "{first}", "--pretrain_config", FIRST[-1].replace(
        "tiny", "small")], ["small.yaml", "contradicts", "arch compact (the model has pvdm)", "give the configuration"]),
    "a mask sampler with a typo": ([*LATENT, "--first_model", "{first}", "mask.name=pvmd"], ["pvmd", 'did you mean "pvdm"']),
    "nothing to sample from": (["--exp", "sample", "--task", "predict"], ["--model RUN", "--baseline"]),
    "an autoencoder for a diffusion": ([*SAMPLE, "--model", "{first}", "--task", "generate"],
                                       ["autoencoder, not a diffusion model", "--exp ddpm"]),
    "weights that a run does not have": ([*PREDICT, "--weights", "avg"], ["avg", "ema"]),
    "unknown task": ([*PREDICT, "--task", "forecast"], ["forecast", "predict"]),
    "unknown sampler": ([*PREDICT, "--sampler", "dimm"], ['"dimm"', 'did you mean "ddim"']),
    "an option that a sampler lacks": ([*PREDICT, "--sampler", "heun", "--eta", "1"], ["heun", "eta"]),
    "unknown scheme": ([*PREDICT, "--scheme", "autoregressive"], ['"autoregressive"', 'did you mean "autoreg"']),
    "unknown scheme to plan": (["--exp", "plan", "--scheme", "ful", "--frames", "8"], ['"ful"', 'did you mean "full"']),
    "steps that are none": ([*PREDICT, "--steps", "many"], ["'many'", "50"]),
    "all frames known": ([*PREDICT, "--known", "0-7", "--frames", "8"], ["0-7", "all of the 8 frames", "give fewer"]),
    "known frames outside": ([*PREDICT, "--known", "0-9", "--frames", "8"], ["frame 9", "8 frames", "0 to 7"]),
    "prediction from nothing": ([*SAMPLE, "--task", "predict"], ["--task predict", "--data", "--input"]),
    "--starts that are none": ([*PREDICT, "--starts", "0,x"], ["--starts 0,x", "0,8,16"]),
    "a video of another size": ([*SAMPLE, "--input", "{files}/large"], ["wide is 20x24", "16x16", "--resize"]),
    "a damaged --input": ([*SAMPLE, "--input", "{files}/damaged"], ["torn.mp4", "damaged"]),
    "unknown baseline": (["--exp", "sample", "--baseline", "repeat", "--data", "SHAPES", "--out", "{tmp}/out"],
                         ['"repeat"', "repeat_last"]),
    "reconstruction of another size": ([*RECONSTRUCT, "{files}/large"], ["wide is 20x24", "16x16", "--resize"]),
    "reconstruction of a short video": ([*RECONSTRUCT, "{files}/short"], ["brief has 2 frames", "4", "leave it out"]),
    "reconstruction of a damaged video": ([*RECONSTRUCT, "{files}/damaged"], ["torn.mp4", "damaged"]),
    "reconstruction of nothing": (["--exp", "reconstruct", "--first_model", "{first}"], ["--input PATH"]),
    "unknown metric": (["--exp", "evaluate", "--real", "{files}/large", "--fake", "{files}/large", "--metrics", "pnsr"],
                       ['"pnsr"', 'did you mean "psnr"']),
    "unknown metric of a model": (["--exp", "evaluate", "--model", "{ddpm}", "--data", "SHAPES", "--metrics", "pnsr"],
                                  ['"pnsr"', 'did you mean "psnr"']),
    "evaluation of videos of two sizes": (["--exp", "evaluate", "--real", "{files}/large/wide.npy", "--fake",
                                           "{files}/small/wide.npy"], ["16x16", "24x20", "--resolution"]),
    "evaluation of a damaged video": (["--exp", "evaluate", "--real", "{files}/damaged", "--fake", "{files}/damaged"],
                                      ["torn.mp4", "damaged"]),
    "evaluation of nothing": (["--exp", "evaluate", "--real", "{files}/large"], ["--fake"]),
    "info about nothing": (["--exp", "info", "--model", "{tmp}/none"], ["no model at", "none", "run folder"]),
    "info about another file": (["--exp", "info", "--model", "{files}/other.pth"], ["other.pth", "no model", "weight"]),
    "a place that cannot be written": ([*RECONSTRUCT, "{files}/small", "--out", "{files}/text.pth/out"], ["text.pth", "--out"]),
    "settings where there are none": (["--exp", "info", "--model", "{first}", "optim.lr=1"], ["info", "optim.lr=1", "flags"]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny):
    """Input that is wrong in one way each."""
    folder = tmp_path_factory.mktemp("files")
    shapes = {"test_only/test/a": (8, 16, 16), "short/brief": (2, 16, 16), "mixed/brief": (2, 16, 16),
              "mixed/whole": (8, 16, 16), "large/wide": (8, 20, 24), "small/wide": (8, 16, 16)}
    for name, (t, h, w) in shapes.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((t, h, w, 3), np.uint8))
    (folder / "ucf" / "UCF-101" / "Archery").mkdir(parents=True)
    (folder / "ucf" / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi").write_bytes(b"")
    (folder / "ucf" / "ucfTrainTestlist").mkdir()
    (folder / "ucf" / "ucfTrainTestlist" / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\n")
    (folder / "empty").mkdir()
    (folder / "damaged").mkdir()
    write_mp4(folder / "damaged" / "torn.mp4", np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    whole = (folder / "damaged" / "torn.mp4").read_bytes()
    (folder / "damaged" / "torn.mp4").write_bytes(whole[:len(whole) // 3])
    (folder / "typo.yaml").write_text("loop: {savevery: 3}\n")
    (folder / "broken.yaml").write_text("loop: [1, {\n")
    (folder / "text.pth").write_text("not weights\n")
    whole = (tiny.first / "model_last.pth").read_bytes()
    (folder / "torn.pth").write_bytes(whole[:len(whole) // 2])
    torch.save({"weight": torch.zeros(1)}, folder / "other.pth")

    class Code:
        def __reduce__(self):
            return os.system, ("touch " + str(folder / "ran"),)

    torch.save({"state": Code()}, folder / "code.pth")
    (folder / "objects.pth").write_bytes(pickle.dumps({"state": Code()}))
    return folder


@pytest.fixture
def places(tmp_path, tiny, files, monkeypatch):
    """What stands in the commands for folders; there are no weights of other projects here."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return {"tmp": tmp_path, "files": files, "first": tiny.first, "ddpm": tiny.ddpm, "weights": tmp_path / "weights"}


def filled(words, places):
    for name, path in places.items():
        words = [word.replace("{" + name + "}", str(path)) for word in words]
    return words


def check(line: str, parts):
    assert line.startswith("error: ") and line.count("\n") == 1 and line.endswith("\n"), line
    for part in parts:
        assert part in line, f"{part!r} is not in: {line}"


@pytest.mark.parametrize("words, parts", CASES.values(), ids=CASES.keys())
def test_an_error_is_one_line_and_status_2(capsys, places, words, parts):
    assert main(filled(words, places)) == 2
    check(capsys.readouterr().err, filled(parts, places))
    assert not (places["files"] / "ran").exists(), "code in a checkpoint was run"
    assert not (places["tmp"] / "out" / "samples").exists(), "the error came after the first video"


@pytest.mark.parametrize("case", ["a pickle of another kind", "a video shorter than the clip"])
def test_the_process_says_no_more(places, case):
    words, parts = CASES[case]
    done = subprocess.run([sys.executable, str(ROOT / "main.py"), *filled(words, places)], env=environment(),
                          cwd=places["tmp"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    check(done.stderr, filled(parts, places))


def test_a_run_of_another_configuration_is_refused_and_left_alone(capsys, places, tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.first.rglob("*") if path.name != ".lock"}
    assert main([*FIRST, *SHAPES, *FAST, "--results", str(tiny.results), "optim.lr=1", "--seed", "42"]) == 2
    check(capsys.readouterr().err, [str(tiny.first), "optim.lr 0.002 -> 1.0", "another --id"])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_mended_command_may_use_the_folder_of_the_one_that_failed(capsys, places):
    wrong = filled([*TRAIN, *SHAPES, "loss.perceptual_weight=1"], places)
    assert main(wrong) == 2
    assert main(filled([*TRAIN, *SHAPES, "loss.perceptual_weight=0", "--steps", "1"], places)) == 0
    capsys.readouterr()
    assert main(wrong) == 2  # now it holds a run
    assert "other settings: loss.perceptual_weight 0.0 -> 1.0" in capsys.readouterr().err
