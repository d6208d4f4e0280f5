"""Experiments with a YAML: their settings, their run folders, and what a diffusion asks of its autoencoder."""

import pytest
import yaml
from fakes import autoencoder, autoencoder_payload, first_config

from configs import commands
from configs.commands import COMMANDS, OF_PANEL, VOLATILE, main_config, open_run
from configs.schema import FOLDER, SCHEMAS, keys_of
from main import Parser, main
from tests.tiny import ROOT
from tools import checkpoint, dist
from tools.log import Run


def parsed(*words):
    return Parser().parse([str(word) for word in words])


def dry(capsys, *words):
    """The settings that a command would run with."""
    assert main([*map(str, words), "--dry-run"]) == 0, capsys.readouterr().err
    return yaml.safe_load(capsys.readouterr().out)


# --- commands of PVDM ----------------------------------------------------------------------------------------

PVDM = [
    ("--exp first_stage --id main --pretrain_config configs/autoencoder/base.yaml --data UCF101 --batch_size 8",
     {"data.name": "UCF101", "loop.batch_size": 8, "loss.adversarial_weight": 0}),
    ("--exp first_stage --id main_gan --pretrain_config configs/autoencoder/base_gan.yaml --data SKY --batch_size 8 "
     "--first_stage_folder results/first_stage_main_UCF101_42/", {"data.name": "SKY", "loop.batch_size": 8}),
    ("--exp ddpm --id main --pretrain_config configs/autoencoder/base.yaml --data UCF101 --first_model "
     "results/first_stage_main_gan_UCF101_42/model_last.pth --diffusion_config configs/latent-diffusion/base.yaml "
     "--batch_size 64", {"data.name": "UCF101", "loop.batch_size": 64, "process.parametrisation": "eps"}),
]


@pytest.mark.parametrize("line, wanted", PVDM, ids=["autoencoder", "adversarial", "diffusion"])
def test_the_commands_of_pvdm_work_as_written_there(capsys, monkeypatch, line, wanted):
    monkeypatch.chdir(ROOT)
    settings = dry(capsys, *line.split())
    for key, value in wanted.items():
        section, name = key.split(".")
        assert settings[section][name] == value
    if "gan" in line and "first_stage --id" in line:
        assert settings["loss"]["adversarial_weight"] > 0


# --- settings ------------------------------------------------------------------------------------------------

def test_the_flags_default_seed_does_not_beat_that_of_a_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {seed: 7}\n")
    words = ("--exp", "first_stage", "--pretrain_config", tmp_path / "mine.yaml")
    seeds = [main_config(parsed(*words, *more)).train.seed for more in ([], ["--seed", 42], ["--seed", 42, "train.seed=8"])]
    assert seeds == [7, 42, 8]
    assert main_config(parsed("--exp", "first_stage")).train.seed == 42


@pytest.mark.parametrize("flag, key", [("data", "data.name"), ("data_path", "data.path"), ("resolution", "data.resolution"),
                                       ("frames", "data.frames"), ("workers", "data.workers"), ("steps", "loop.steps"),
                                       ("batch_size", "loop.batch_size"), ("seed", "train.seed")])
@pytest.mark.parametrize("exp", SCHEMAS)
def test_a_flag_is_a_key_by_another_name(capsys, exp, flag, key):
    value = {"data": "SHAPES", "data_path": "here", "resolution": 64}.get(flag, 3)
    by_flag, by_key, by_none = (dry(capsys, "--exp", exp, *words) for words in ([f"--{flag}", value], [f"{key}={value}"], []))
    assert by_flag == by_key != by_none


def cfg_and_args(tmp_path, *words):
    args = parsed("--exp", "first_stage", "--pretrain_config", FOLDER / "autoencoder" / "tiny.yaml", "--data", "SHAPES",
                  "--results", tmp_path, *words)
    return args, main_config(args)


def test_a_run_lies_where_the_contract_says(tmp_path):
    args, cfg = cfg_and_args(tmp_path, "--id", "mine", "--seed", "5")
    run = open_run(args, cfg, {"init_from": None})
    run.close()
    assert run.folder == tmp_path / "first_stage_mine_SHAPES_5"
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert (written["train"]["seed"], written["data"]["name"], written["run"]) == (5, "SHAPES", {"init_from": None})


@pytest.mark.parametrize("change, allowed", [
    ("loop.steps=9", True), ("data.workers=3", True), ("loop.micro_batch=4", True), ("loop.log_every=3", True),
    ("optim.lr=0.1", False), ("loop.batch_size=4", False), ("data.stride=2", False), ("model.channels=64", False)])
def test_a_run_is_continued_only_with_what_decides_no_weight(tmp_path, change, allowed):
    args, cfg = cfg_and_args(tmp_path)
    run = open_run(args, cfg, {})
    run.metrics(1, {"train/loss": 1.0})  # now it holds training
    run.close()
    args, cfg = cfg_and_args(tmp_path, change)
    if allowed:
        open_run(args, cfg, {}).close()
        return
    with pytest.raises(ValueError, match=rf"holds a run with other settings: {change.split('=')[0]} .*another --id"):
        open_run(args, cfg, {})


@pytest.mark.parametrize("judge, change, allowed", [
    (None, "train.panel_clips=3", True), (None, "train.sample_steps=9", True), ("panel/ssim", "train.panel_fvd=true", True),
    ("panel/ssim", "loop.sample_every=9", True), (None, "loop.best=panel/ssim", False), ("panel/ssim", "loop.best=loss", False),
    ("panel/ssim", "train.panel_clips=3", False), ("panel/ssim", "train.sample_steps=9", False)])
def test_a_panel_that_picks_the_best_weights_stays_as_it_is(tmp_path, judge, change, allowed):
    words = ["--exp", "ddpm", "--data", "SHAPES", "--results", tmp_path, "train.panel_clips=2", "loop.sample_every=5"]
    for more in ([], [change]):
        args = parsed(*words, *([f"loop.best={judge}"] if judge else []), *more)
        cfg = main_config(args)
        if more and not allowed:
            with pytest.raises(ValueError, match=f"holds a run with other settings: {change.split('=')[0]} "):
                open_run(args, cfg, {})
            return
        run = open_run(args, cfg, {})
        run.metrics(1, {"train/loss": 1.0})
        run.close()


def test_what_may_change_are_keys_that_exist():
    valid = {key for schema in SCHEMAS.values() for key in keys_of(schema)}
    valid |= {key.split(".")[0] for key in valid} | {"run.resume"}
    assert valid >= VOLATILE | OF_PANEL


def test_the_same_folder_with_and_without_a_slash_is_the_same_run(monkeypatch, tmp_path):
    monkeypatch.setattr("autoencoder.train.train_first_stage", lambda cfg, run, **context: run.metrics(1, {"loss": 1.0}))
    for folder in ("results/RUN/", "results/RUN"):
        args, _ = cfg_and_args(tmp_path, "--first_stage_folder", folder)
        COMMANDS["first_stage"].run(args)
    args, _ = cfg_and_args(tmp_path, "--first_stage_folder", "results/OTHER")
    with pytest.raises(ValueError, match=r"run\.first_stage_folder results/RUN -> results/OTHER"):
        COMMANDS["first_stage"].run(args)


# --- a diffusion and its autoencoder -------------------------------------------------------------------------

@pytest.fixture
def second_stage(monkeypatch, tmp_path):
    """Run ddpm up to its training; return the configuration that it would train."""
    trained = []
    monkeypatch.setattr("latent_diffusion.train.train_diffusion", lambda cfg, run, codec, **context: trained.append(cfg))
    checkpoint.save(tmp_path / "first.pth", autoencoder_payload(autoencoder(first_config())))

    def run(*words):
        COMMANDS["ddpm"].run(parsed("--exp", "ddpm", "--first_model", tmp_path / "first.pth", "--data", "SHAPES",
                                    "--results", tmp_path, *words))
        return trained[-1]
    return run


def test_clips_are_those_of_the_autoencoder(second_stage):
    data = second_stage().data  # though the YAML says 256x256x16
    assert (data.size, data.frames, data.channels) == ((16, 16), 4, 3)
    assert second_stage("--resolution", 16, "--frames", 4, "data.channels=3").data == data


@pytest.mark.parametrize("words, message", [
    (["--resolution", 32], r"data\.resolution=\(32, 32\) does not fit .* takes \(16, 16\)"),
    (["data.frames=8"], r"data\.frames=8 does not fit .* takes 4"), (["data.channels=1"], r"data\.channels=1 .* takes 3"),
    (["--pretrain_config", FOLDER / "autoencoder" / "base.yaml"], r"contradicts --first_model .*base\.yaml"),
])
def test_what_contradicts_the_autoencoder_is_refused(second_stage, words, message):
    with pytest.raises(ValueError, match=message):
        second_stage(*words)


def test_loss_keys_of_a_pretrain_config_do_not_matter(second_stage, tmp_path):
    tiny = FOLDER / "autoencoder" / "tiny.yaml"
    (tmp_path / "other.yaml").write_text(f"extends: {tiny}\nloss: {{pixel: l1, perceptual_weight: 4.0}}\n")
    assert second_stage("--pretrain_config", tmp_path / "other.yaml") == second_stage("--pretrain_config", tiny)


# --- one process, or many ------------------------------------------------------------------------------------

def test_only_the_main_process_prints_and_writes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dist, "is_main", lambda: False)
    for words in (["info", "--model", "x"], ["plan", "--frames", "8"], ["sample", "--dry-run"], ["first_stage", "--dry-run"]):
        assert main(["--exp", *words]) == 0
    assert capsys.readouterr().out == ""
    args, cfg = cfg_and_args(tmp_path)
    assert open_run(args, cfg, {}).folder is Run.null().folder is None and list(tmp_path.iterdir()) == []


def test_the_demo_is_for_one_process(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(dist, "world", lambda: 2)
    assert main(["--exp", "demo", "--results", str(tmp_path)]) == 2
    assert "one process, got 2" in capsys.readouterr().err


def test_processes_are_left_also_after_an_error(monkeypatch):
    calls = []
    monkeypatch.setattr(dist, "start", lambda: calls.append("start"))
    monkeypatch.setattr(dist, "stop", lambda: calls.append("stop"))
    with pytest.raises(RuntimeError), commands.processes():
        raise RuntimeError
    assert calls == ["start", "stop"]
